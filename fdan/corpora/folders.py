"""A folder of class folders, as FER2013, CK+ and many others are distributed.

`angry/1.jpg`, or `train/angry/1.jpg` with the corpus's own parts. Images and videos give faces,
sound files and videos give speech. Such a corpus says nothing about speakers.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdan.corpora.listing import IMAGE, VIDEO, Entry, Listing, Problem, Row, Source, list_files
from fdan.emotions import EMOTIONS, from_name
from fdan.errors import DataError

_PARTS: Final = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "publictest": "validation",
    "test": "test",
    "testing": "test",
    "privatetest": "test",
}


def read(source: Source) -> Listing:
    """Rows of class folders. DataError: there are files, but no folder is named for an emotion."""
    unnamed: Counter[Path] = Counter()

    def read_path(path: Path) -> Entry:
        inner = path.relative_to(source.path)
        emotion = next((e for e in map(from_name, reversed(inner.parts[:-1])) if e), None)
        if emotion is None:
            unnamed[path.parent] += 1
            return None
        parts = (_PARTS.get(name.lower()) for name in inner.parts[:-1])
        # a.wav beside a.mp4 is the same utterance; a.jpg beside a.png are two faces.
        name = inner.with_suffix("") if source.modality == "acoustic" else inner
        row = Row(path, emotion, None, name.as_posix(), next((p for p in parts if p), None))
        return row, int(path.suffix.lower() in VIDEO)

    listing = list_files(source, read_path, IMAGE + VIDEO if source.modality == "visual" else ())
    if unnamed and not listing.rows:
        names = ", ".join(sorted({folder.name for folder in unnamed})[:5])
        raise DataError(
            f"no class folder is named for an emotion (found: {names};"
            f" known: {', '.join(EMOTIONS)}, and words such as angry, happy, sad)"
        )
    problems = tuple(
        Problem(folder, f"'{folder.name}' is not one of the seven emotions: {count} files left out")
        for folder, count in unnamed.items()
    )
    return replace(listing, problems=problems)
