"""The paper's seven emotions and two modalities, in the order that labels and weights have."""

from typing import Final

MODALITIES: Final = ("visual", "acoustic")
"""The order in which a network draws its weights: another one trains other networks."""

EMOTIONS: Final = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

SHORT: Final = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")  # the paper's, figure 4

_ALIASES: Final = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "happy": "happiness",
    "joy": "happiness",
    "joyful": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}

WORDS: Final = (*EMOTIONS, *_ALIASES)
"""Words that name one of the seven."""


def from_name(name: str) -> str | None:
    """The emotion that a corpus calls `name`; None for one outside the seven, or an unknown word.

    >>> from_name("Angry"), from_name("joy"), from_name("calm")
    ('anger', 'happiness', None)
    """
    word = name.strip().lower()
    return word if word in EMOTIONS else _ALIASES.get(word)
