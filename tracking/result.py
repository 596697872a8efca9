"""The result of a study, as types and as one file: <runs>/<study>/result.json. A search writes it;
promotion and the report read it instead of Optuna's storage.

The names of the fields are the keys of the file. Every path is absolute. In the file, the URI of a
database in the runs folder is relative to that folder, which may be moved.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from fdan.errors import FdanError
from fdan.files import write_atomic
from tracking.command_line import command_now
from tracking.json_types import decode, required
from tracking.uri import located_uri, portable_uri

RESULT: Final = "result.json"
WINNER: Final = "winner"  # folder of the confirmed winner's model, beside RESULT
PREDICTIONS: Final = "test.csv"  # in it: the model's answers on the test part, by utterance
YARDSTICK_PREDICTIONS: Final = "test-{}.csv"  # beside that: a yardstick's, by its name
REPORT: Final = "report.html"  # the study's report, beside RESULT
NESTED_RESULT: Final = "nested.json"  # in place of RESULT, in a nested study's folder
_FORMAT: Final = 2

ParameterValue: TypeAlias = bool | int | float | str | None  # value of a hyperparameter
Curve: TypeAlias = tuple[tuple[int, float], ...]  # (epoch, value) pairs in the order of the epochs
Matrix: TypeAlias = tuple[tuple[int, ...], ...]  # counts, 7 x 7: rows true, columns predicted


class ResultError(FdanError):
    """A study's result that is missing, damaged, or of another version."""


@dataclass(frozen=True)
class Range:
    """A searched number."""

    type: Literal["int", "float"]
    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Choices:
    """A searched choice."""

    type: Literal["categorical"]
    choices: tuple[ParameterValue, ...]


Dimension: TypeAlias = Range | Choices


@dataclass(frozen=True)
class Part:
    """Numbers of samples in a part of the split, of one modality; speakers: the known ones."""

    part: str  # train, validation or test
    modality: str
    emotions: Mapping[str, int]
    speakers: Mapping[str, int]


@dataclass(frozen=True)
class UnreadableFile:
    path: str
    reason: str


@dataclass(frozen=True)
class Cost:
    device: str  # cpu, or the name of the GPU
    trial_seconds: float
    confirm_seconds: float
    epochs_trained: int
    epochs_planned: int  # epochs of all ended trials if none had been stopped


@dataclass(frozen=True)
class TrialRecord:
    number: int
    state: str  # name of Optuna's TrialState
    reason: str
    params: Mapping[str, ParameterValue]
    value: float | None  # None unless the trial is complete
    epochs: int
    seconds: float
    interruptions: int
    values: Curve  # the value after each epoch


@dataclass(frozen=True)
class Importance:
    """A share of all the importance, with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Importances:
    method: str
    trials: int
    enough: bool  # false where the order of the settings is arbitrary
    values: Mapping[str, Importance]  # the most important setting first


LARGER: Final = "larger"
SMALLER: Final = "smaller"
UNSEEN: Final = "unseen"
UNKNOWN: Final = "unknown"
"""Of a setting, beside the noise of the seed; none: it cannot be told from chance."""


@dataclass(frozen=True)
class Effect:
    """What a setting alone does to the value of complete trials."""

    deviation: float  # standard deviation of the values by its fit
    p: float  # that there is none; by a permutation test, and Holm's method over the settings
    verdict: str  # LARGER, SMALLER, UNSEEN or UNKNOWN


@dataclass(frozen=True)
class EmbeddedPoint:
    x: float
    y: float
    emotion: str
    speaker: str | None
    modality: str


@dataclass(frozen=True)
class Embedding:
    """Samples in the plane of a t-SNE of the model's features."""

    method: str
    part: str
    points: tuple[EmbeddedPoint, ...]


@dataclass(frozen=True)
class Confusions:
    validation: Matrix | None
    test: Matrix | None


SEPARATED: Final = "separated"
BUDGET: Final = "budget"
UNFINISHED: Final = "unfinished"
"""How a confirmation ended: the winner would come first with all seeds of each setting, at 95 %; or
all of its runs are spent, and others are still too close for that; or not yet."""


@dataclass(frozen=True)
class Behind:
    """By how much a setting is behind the winner, over the seeds that both have, with its 95 %
    interval (Student, paired)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ConfirmedSetting:
    trial: int  # the trial of the search that found the setting
    params: Mapping[str, ParameterValue]
    search_value: float
    values: tuple[float, ...]  # one for each fresh seed
    mean: float
    low: float | None  # low .. high: the 95 % interval (Student); None of one seed
    high: float | None
    optimism: float  # search_value less the mean
    behind: Behind | None = None  # None for the winner, and with fewer than two common seeds


@dataclass(frozen=True)
class Confirmation:
    """Settings that ran again with fresh seeds, the winner first: the best mean of those with the
    most seeds."""

    seeds: tuple[int, ...]  # the winner's
    settings: tuple[ConfirmedSetting, ...]
    winner: int  # number of the trial whose setting won
    run: int  # number of the confirming run whose model is the winner's
    seed: int  # that run's seed
    # An earlier release ran all seeds of each setting and wrote none of these.
    ended: str = BUDGET
    runs: int | None = None  # of `budget`
    budget: int | None = None  # runs of all settings with all seeds
    seeds_each: int | None = None  # seeds of a setting, at most
    noise: float | None = None  # standard deviation of a value over seeds, pooled over settings


@dataclass(frozen=True)
class ScoreInterval:
    """An interval of the test UAR, by a bootstrap over groups."""

    low: float
    high: float
    level: float
    groups: int
    by: str  # speaker or utterance


@dataclass(frozen=True)
class ClassScore:
    recall: float
    precision: float
    samples: int


@dataclass(frozen=True)
class SpeakerScore:
    uar: float
    war: float
    samples: int


@dataclass(frozen=True)
class Rescoring:
    """A scoring of the test part after the first one, of another model and for a reason."""

    when: str
    reason: str | None
    uar: float
    before: float  # the UAR that this one replaced


@dataclass(frozen=True)
class YardstickUar:
    """A yardstick (fdan/evaluation/yardsticks) on the validation part."""

    name: str
    title: str
    uar: float


@dataclass(frozen=True)
class PairedDifference:
    """The winner's UAR less a yardstick's on the same utterances (fdan/evaluation/statistics)."""

    value: float
    low: float  # low .. high: the 95 % interval
    high: float
    p: float

    def words(self, beside: str, digits: int = 4) -> str:
        """Where the winner lies, by how much, and how sure that is.

        Args:
            beside: What it is compared with, as a sentence names it.
            digits: Digits behind the point.
        """
        size = f"{abs(self.value):.{digits}f}"
        sure = f"({self.low:+z.{digits}f} .. {self.high:+z.{digits}f}, p = {self.p:.4f})"
        if not float(size):
            return f"level with {beside} {sure}"
        return f"{'below' if self.value < 0 else 'above'} {beside} by {size} {sure}"


@dataclass(frozen=True)
class YardstickScore(YardstickUar):
    """A yardstick on the test part, beside the model that was scored."""

    interval: ScoreInterval
    difference: PairedDifference


@dataclass(frozen=True)
class TestScore:
    """Scores of one model on the test part, which is used once."""

    trial: int
    run: int | None  # the confirming run; None: the trial itself
    seed: int  # the scored model's seed
    scored: str  # ISO 8601 time
    samples: int
    war: float
    uar: float
    wf1: float
    interval: ScoreInterval
    per_class: Mapping[str, ClassScore]
    per_speaker: Mapping[str, SpeakerScore]
    baseline_uar: float | None
    model_sha256: str  # of the scored model.safetensors
    again: tuple[Rescoring, ...]  # the newest one is the score above
    yardsticks: tuple[YardstickScore, ...] = ()  # that were measured: none by earlier releases


@dataclass(frozen=True)
class Check:
    """An invariant, checked when the result was written."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class StudyResult:
    study: str
    study_id: str  # the value of MLflow's tag fdan.study_id
    experiment: str
    task: str
    state: str
    """COMPLETE when all requested trials have ended, or the time budget or early stopping ended the
    search; PAUSED otherwise"""
    reason: str
    wanted: int  # trials that were requested
    counts: Mapping[str, int]  # ended trials by Optuna's state
    written: str  # ISO 8601 time, UTC
    command: str  # the command line that continues the study
    tracking_uri: str  # where its runs are, without a password
    page: str | None  # path of the study's page in MLflow's UI
    space: Mapping[str, Dimension]
    fixed: Mapping[str, ParameterValue]  # settings that were not searched
    sampler: str
    pruner: str
    epochs: int  # of a trial that is not stopped
    origin: Mapping[str, Any]  # as fdan.data.provenance.origin makes it
    parts: tuple[Part, ...]
    unreadable: tuple[UnreadableFile, ...]
    baseline: float | None
    """validation UAR of a logistic regression on frozen features; None where they are tuned"""
    versions: Mapping[str, str]
    git: str  # commit of the code, followed by "+" where files differ from it
    cost: Cost
    trials: tuple[TrialRecord, ...]  # by number
    importances: Importances
    curves: Mapping[str, Mapping[str, Curve]]  # by number and metric, of the best trials
    embedding: Embedding | None
    confusion: Confusions
    confirm: Confirmation | None
    test: TestScore | None
    checks: tuple[Check, ...]
    effects: Mapping[str, Effect] = dataclasses.field(default_factory=dict)  # the largest first
    yardsticks: tuple[YardstickUar, ...] = ()  # on the validation part
    folds: int = 0  # that each trial trains, its value being their mean; 0: one split

    def to_json(self) -> str:
        """The content of result.json."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"

    def save(self, study: Path) -> None:
        """Write the result into the study's folder, whole or not at all. Raises OSError."""
        uri = portable_uri(self.tracking_uri, study.absolute().parent)
        result = dataclasses.replace(self, tracking_uri=uri)
        write_atomic(study / RESULT, result.to_json(), sync=True)

    @classmethod
    def load(cls, study: Path) -> StudyResult:
        """Read the result in a study's folder, with the places that it has now. Raises ResultError,
        in one line."""
        file, again = study / RESULT, "run the study's command again"
        if not study.is_dir():
            raise ResultError(f"{study}: no such folder; give a study's folder, such as runs/demo")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if (study / NESTED_RESULT).exists():
                outer = f"{study}-outer-1"
                raise ResultError(
                    f"{study}: is a nested study's; give the folder of an outer fold's study, such"
                    f" as {outer}"
                ) from None
            raise ResultError(
                f"{study}: no {RESULT} in it; a search writes it at its end, so {again}"
            ) from None
        except (OSError, ValueError) as error:
            raise ResultError(f"{file} cannot be read ({error}); run the study again") from None
        names = {"format", *cls.__dataclass_fields__}
        whole = isinstance(values, dict) and names >= values.keys() >= {"format", *required(cls)}
        if not whole or values["format"] != _FORMAT:
            raise ResultError(f"{file}: written by another version of fdan-search; {again}")
        del values["format"]
        try:
            result = decode(cls, values)
            runs = study.absolute().parent
            return dataclasses.replace(
                result,
                tracking_uri=located_uri(result.tracking_uri, runs),
                command=command_now(result.command, runs),
            )
        except ValueError as error:
            raise ResultError(f"{file}: damaged ({error}); {again}") from None
