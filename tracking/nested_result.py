"""The result of a nested study, as types and as one file: <runs>/<study>/nested.json.

A nested study runs one search for each outer fold, whose speakers that search never hears, and
tests its winner on them. All answers together are a figure of the whole procedure: of searching,
choosing and training on such a corpus, for a speaker that it does not have.

The names of the fields are the keys of the file, as in tracking/result.py.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdan.files import write_atomic
from tracking.command_line import command_now
from tracking.json_types import decode
from tracking.result import (
    NESTED_RESULT,
    ParameterValue,
    ResultError,
    ScoreInterval,
    StudyResult,
    YardstickScore,
)
from tracking.uri import located_uri, portable_uri

NESTED_REPORT: Final = "nested.html"  # beside it, as Markdown, too


@dataclass(frozen=True)
class OuterResult:
    """What came of one outer fold."""

    fold: int  # its number, from 1
    study: str  # name of its study, beside the nested one's folder
    speakers: Mapping[str, int]  # that it tests, with how many utterances each
    trials: int  # that its search ended
    trial: int  # whose setting won
    params: Mapping[str, ParameterValue]  # of the winner
    search_uar: float  # validation UAR that the search saw
    confirmed_uar: float | None  # mean validation UAR of fresh seeds; None: not confirmed
    test_uar: float  # on its own speakers
    samples: int


@dataclass(frozen=True)
class Agreement:
    """How far the outer folds' winners agree on a setting."""

    values: tuple[ParameterValue, ...]  # of each winner, in the order of the folds
    spread: float | None
    """0: all agree; 1: they span the whole range that was searched, or no two chose the same. None
    where fewer than two winners have the setting."""


@dataclass(frozen=True)
class PooledScore:
    """The answers of all outer folds' winners, each on its own fold's speakers."""

    samples: int
    uar: float
    war: float
    wf1: float
    interval: ScoreInterval  # of the UAR
    yardsticks: tuple[YardstickScore, ...]
    """On the same utterances, each fitted anew in every outer fold. Those that each fold has."""


@dataclass(frozen=True)
class NestedResult:
    """A nested study, with the outer folds that are done so far."""

    study: str
    study_id: str  # the value of MLflow's tag fdan.study_id
    experiment: str
    task: str
    outer: int  # number of outer folds
    nested: str  # as it was asked for: loso, or that number
    inner_folds: str  # that each search has: none, loso or a number
    state: str  # COMPLETE when all outer folds are done; PAUSED otherwise
    reason: str
    written: str  # ISO 8601 time, UTC
    command: str  # the command line that continues it
    tracking_uri: str  # where its runs are, without a password
    folds: tuple[OuterResult, ...]  # that are done
    agreement: Mapping[str, Agreement]  # of each setting that was searched
    pooled: PooledScore | None  # of the folds that are done; None of none

    def save(self, study: Path) -> None:
        """Write the result into the study's folder, whole or not at all. Raises OSError."""
        uri = portable_uri(self.tracking_uri, study.absolute().parent)
        values = dataclasses.asdict(dataclasses.replace(self, tracking_uri=uri))
        write_atomic(study / NESTED_RESULT, json.dumps(values, indent=1) + "\n", sync=True)

    @classmethod
    def load(cls, study: Path) -> NestedResult:
        """Read the result in a study's folder, with the places that it has now. Raises ResultError,
        in one line."""
        file, again = study / NESTED_RESULT, "run the study's command again"
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            result = decode(cls, values)
        except FileNotFoundError:
            raise ResultError(f"{study}: no {NESTED_RESULT} in it yet; {again}") from None
        except (OSError, ValueError) as error:
            raise ResultError(f"{file} cannot be read ({error}); {again}") from None
        runs = study.absolute().parent
        return dataclasses.replace(
            result,
            tracking_uri=located_uri(result.tracking_uri, runs),
            command=command_now(result.command, runs),
        )


def load_result(study: Path) -> StudyResult | NestedResult:
    """The result in the folder of a study, or of a nested one. Raises ResultError, in one line."""
    nested = (study / NESTED_RESULT).exists()
    return NestedResult.load(study) if nested else StudyResult.load(study)
