"""RAVDESS: emotional speech of 24 actors (Livingstone and Russo 2018, PLOS ONE 13(5)).

A name is modality-channel-emotion-intensity-statement-repetition-actor: `03-01-05-01-02-01-12.wav`.
Calm is outside the seven emotions and song is not speech: both are skipped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

from fdan.corpora.listing import (
    AUDIO,
    Listing,
    Problem,
    Row,
    deduplicate,
    find_files,
    media_suffixes,
)

_EMOTION: Final = {
    "01": "neutral",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
_CALM: Final = "02"
_SPEECH: Final = "01"

# Modality codes that serve, and in which order they are preferred.
_AUDIO_VIDEO, _VIDEO_ONLY, _AUDIO_ONLY = "01", "02", "03"
_PREFERRED: Final = {
    "acoustic": (_AUDIO_ONLY, _AUDIO_VIDEO),
    "visual": (_AUDIO_VIDEO, _VIDEO_ONLY),
}

_NAME: Final = re.compile(r"\d\d(?:-\d\d){6}")


def read(root: Path, modality: str) -> Listing:
    """Rows of RAVDESS, one for each utterance; the speaker is the actor.

    Args:
        root: Folder of the corpus.
        modality: "acoustic" or "visual".
    """
    rows: list[tuple[Row, int]] = []
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    preferred = _PREFERRED[modality]
    for path in find_files(root, media_suffixes(modality)):
        if not _NAME.fullmatch(path.stem):
            problems.append(Problem(path, "not a RAVDESS name such as 03-01-05-01-02-01-12"))
            continue
        kind, channel, emotion, *_, actor = path.stem.split("-")
        if kind not in preferred:
            skipped["other modality"] += 1
        elif channel != _SPEECH:
            skipped["song"] += 1
        elif emotion == _CALM:
            skipped["calm"] += 1
        elif emotion not in _EMOTION:
            problems.append(Problem(path, f"emotion {emotion} is none of RAVDESS's 01 to 08"))
        else:
            row = Row(path, _EMOTION[emotion], f"Actor_{actor}", path.stem[3:])
            sound_file = path.suffix.lower() in AUDIO
            rows.append((row, 2 * preferred.index(kind) + (not sound_file)))
    chosen, copies = deduplicate(rows)
    return Listing(chosen, tuple(problems), {**skipped, **copies})
