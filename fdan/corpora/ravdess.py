"""RAVDESS: emotional speech of 24 actors (Livingstone and Russo 2018, PLOS ONE 13(5)).

A name is modality-channel-emotion-intensity-statement-repetition-actor: `03-01-05-01-02-01-12.wav`.
Calm is outside the seven emotions and song is not speech: both are skipped and counted.
"""

import re
from pathlib import Path
from typing import Final

from fdan.corpora.listing import AUDIO, Entry, Listing, Problem, Row, Source, list_files

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


def read(source: Source) -> Listing:
    """Rows of RAVDESS, one for each utterance; the speaker is the actor."""
    preferred = _PREFERRED[source.modality]

    def read_name(path: Path) -> Entry:
        if not _NAME.fullmatch(path.stem):
            return Problem(path, "not a RAVDESS name such as 03-01-05-01-02-01-12")
        kind, channel, emotion, *_, actor = path.stem.split("-")
        if kind not in preferred:
            return "other modality"
        if channel != _SPEECH:
            return "song"
        if emotion == _CALM:
            return "calm"
        if emotion not in _EMOTION:
            return Problem(path, f"emotion {emotion} is none of RAVDESS's 01 to 08")
        row = Row(path, _EMOTION[emotion], f"Actor_{actor}", path.stem[3:])
        return row, 2 * preferred.index(kind) + (path.suffix.lower() not in AUDIO)

    return list_files(source, read_name)
