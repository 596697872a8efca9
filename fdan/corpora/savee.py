"""SAVEE: Surrey Audio-Visual Expressed Emotion (Haq and Jackson 2010), four male speakers.

As published: speech `AudioData/DC/a01.wav`, faces `VisualData/DC/a01.avi`; also in the flat form
`DC_a01.wav`. The folder given may be the one that holds AudioData, or AudioData itself.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from fdan.corpora.listing import AUDIO, Entry, Listing, Problem, Row, Source, list_files, suffix

CODES: Final = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}

_SPEAKER: Final = re.compile(r"[A-Z]{2}")
_NAME: Final = re.compile(r"(?:(?P<speaker>[A-Z]{2})_)?(?P<code>sa|su|[adfhn])(?P<number>\d{1,3})")


def read(source: Source) -> Listing:
    """Rows of SAVEE; an utterance such as DC_a01 is the same in both modalities."""

    def read_name(path: Path) -> Entry:
        name = _NAME.fullmatch(path.stem)
        speaker = name["speaker"] or path.parent.name if name else ""
        if name is None or not _SPEAKER.fullmatch(speaker):
            return Problem(path, "not a SAVEE name such as DC/a01 or DC_a01")
        utterance = f"{speaker}_{name['code']}{int(name['number']):02d}"
        # SAVEE also ships AudioVisualClip: the recordings proper come first.
        if source.modality == "visual":
            proper = "VisualData" in path.parts
        else:
            proper = path.suffix.lower() in AUDIO
        return Row(path, CODES[name["code"]], speaker, utterance), int(not proper)

    return list_files(source, read_name)


def read_demo(source: Source) -> Listing:
    """Rows of the demo corpus, which has SAVEE's layout. Its films have no sound track, and some of
    them no sound file beside them either: they are faces only."""
    listing = read(source)
    if source.modality == "visual":
        return listing
    return replace(listing, rows=tuple(r for r in listing.rows if suffix(r.path) in AUDIO))
