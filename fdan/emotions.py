"""The seven emotions of the paper (section 3.1), in the order of every label in this project."""

from __future__ import annotations

from typing import Final

EMOTIONS: Final = (
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
)

# The paper's abbreviations (figure 4), for figures.
SHORT: Final = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")

_ALIASES: Final = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "calm": None,
    "contempt": None,
}


def label(emotion: str) -> int:
    """Class index of one of EMOTIONS."""
    return EMOTIONS.index(emotion)


def from_name(name: str) -> str | None:
    """The emotion that a corpus calls `name`; None for one outside the seven, or an unknown word.

    >>> from_name("Angry"), from_name("joy"), from_name("calm")
    ('anger', 'happiness', None)
    """
    word = name.strip().lower()
    return word if word in EMOTIONS else _ALIASES.get(word)
