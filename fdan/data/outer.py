"""Outer folds: all acoustic speakers, divided so that each of them is tested once.

A nested search (search/nested) searches each outer fold by itself: its speakers are the test part,
and nothing that is trained, validated or chosen hears them. The division is that of folds: the same
share of each emotion in each, fixed by split_seed, and the same whichever fold is searched.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from fdan.data.speakers import (
    Speaker,
    divide_speakers,
    group_by_speaker,
    list_speakers,
    nameless_corpora,
)
from fdan.data.task import Samples, Task
from fdan.errors import DataError

NO_OUTER: Final = "none"

_STREAM: Final = 2  # of random numbers: another one than those of the split and of its folds
_LEFT: Final = 2  # speakers that the test part leaves, at least: one to train, one to validate


@dataclass(frozen=True)
class OuterFold:
    """Outer fold `number`, from 1, of `count`."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The fold that a text such as 2/4 names. Raises ValueError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        fold = cls(int(match[1]), int(match[2])) if match else None
        if fold is None or fold.count < 2 or not 1 <= fold.number <= fold.count:
            raise ValueError("expected none, or I/K such as 2/4, the second of four outer folds")
        return fold


def parse_outer(text: str) -> str:
    """The option's text in its one form. Raises ValueError."""
    return text if text == NO_OUTER else str(OuterFold.parse(text))


def outer_folds(samples: Samples, count: int | None, seed: int) -> list[list[Speaker]]:
    """The test speakers of each outer fold. DataError: these corpora do not allow such folds; says
    why and what they allow.

    Args:
        samples: The acoustic samples.
        count: Number of folds; None: one for each speaker.
        seed: Seed of the division.
    """
    everything = range(len(samples))
    if nameless := nameless_corpora(samples, everything):
        raise DataError(
            f"corpus {', '.join(nameless)} names no speakers, and outer folds are by speaker: use"
            " neither --nested nor --outer, and --protocol paper"
        )
    speakers = group_by_speaker(samples, everything)
    number = len(speakers) if count is None else count
    names = f"{len(speakers)} speaker{'s' * (len(speakers) != 1)} ({list_speakers([*speakers])})"
    if len(speakers) <= _LEFT:
        raise DataError(
            f"outer folds need at least {_LEFT + 1} acoustic speakers, here is {names}: add a"
            " source, or use neither --nested nor --outer, and --protocol paper"
        )
    if number > len(speakers):
        raise DataError(
            f"{number} outer folds of {names}: use at most {len(speakers)}, or --nested loso"
        )
    folds = divide_speakers(speakers, samples.labels, number, (seed, _STREAM))
    largest = max(folds, key=len)
    if len(speakers) - len(largest) < _LEFT:
        raise DataError(
            f"{number} outer folds of {names}: one of them tests {list_speakers(largest)}, which"
            f" leaves fewer than {_LEFT} to train and validate: use --nested loso"
        )
    return folds


def outer_speakers(samples: Samples, outer: str, seed: int) -> list[Speaker]:
    """The test speakers of one outer fold. DataError as of `outer_folds`.

    Args:
        samples: The acoustic samples.
        outer: Its number and how many there are, such as 2/4.
        seed: Seed of the division.
    """
    fold = OuterFold.parse(outer)
    return outer_folds(samples, fold.count, seed)[fold.number - 1]


def count_speakers(task: Task) -> int:
    """Number of acoustic speakers that a task names."""
    samples = task.samples("acoustic")
    return len(group_by_speaker(samples, range(len(samples))))
