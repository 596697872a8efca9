"""What a demo corpus is made from, and how its files are named."""

from __future__ import annotations

import dataclasses
from typing import Final

from fdan.config import Config, option
from fdan.corpora import savee

CODES: Final = {emotion: code for code, emotion in savee.CODES.items()}
"""SAVEE's file codes."""


@dataclasses.dataclass(frozen=True)
class DemoSettings(Config):
    """What the bytes of a demo corpus depend on."""

    speakers: int = option(12, "speakers", low=1, high=676)
    takes: int = option(6, "utterances per emotion and speaker", low=1, high=99)
    seed: int = option(0, "seed of everything in the corpus", low=0)


def speaker_name(index: int) -> str:
    """Two capital letters, different for each of the 676 indices.

    >>> [speaker_name(index) for index in (0, 1, 26)]
    ['AD', 'BI', 'AE']
    """
    round_, first = divmod(index, 26)
    return chr(65 + first) + chr(65 + (5 * first + 3 + round_) % 26)
