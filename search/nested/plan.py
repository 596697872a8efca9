"""What a nested study consists of: its outer folds, and the study of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from fdan.data.folds import trained_splits
from fdan.data.outer import OuterFold, outer_folds
from fdan.data.split import LOSO, Split, SplitConfig
from fdan.data.task import Task
from search.config.folds import decide_folds, folds_line
from search.config.resume_options import ONCE
from search.config.spec import StudySpec, resolve
from search.study.folder import NESTED, OUTER_FOLDS, Facts, StudyError, read_study_file
from search.study.identity import RequestedStudy, check_same_study, describe_differences
from tracking.result import ResultError, StudyResult
from tracking.uri import mask_password

_OF_THE_WHOLE: Final = frozenset(("nested", "time_budget", *ONCE))
"""Options of a nested study that those of its outer folds do not take over."""


@dataclass(frozen=True)
class NestedPlan:
    """A nested study whose data are known."""

    spec: StudySpec  # with its folds decided
    task: Task
    splits: tuple[Split, ...]
    """One of each outer fold: what its search trains on, or the first of its inner folds. What they
    do not share is the test part."""
    inner_folds: int
    """Number of inner folds of an outer one, at most; 0: one split."""
    folds_line: str  # what was decided of the inner folds and why; empty where an option says it

    @property
    def name(self) -> str:
        return self.spec.name(self.task)

    @property
    def folder(self) -> Path:
        return self.spec.runs / self.name

    @property
    def count(self) -> int:
        """Number of outer folds."""
        return len(self.splits)

    @property
    def numbers(self) -> range:
        """The outer folds, from 1."""
        return range(1, self.count + 1)

    @property
    def nested(self) -> int | str:
        """How the outer folds were asked for: loso or their number."""
        assert self.spec.study.nested is not None
        return self.spec.study.nested

    def split_config(self, number: int) -> SplitConfig:
        """The division of an outer fold."""
        outer = str(OuterFold(number, self.count))
        return replace(self.spec.settings.split, outer=outer)

    def study_name(self, number: int) -> str:
        """The name of an outer fold's study."""
        return f"{self.name}-outer-{number}"

    def study_folder(self, number: int) -> Path:
        """The folder of an outer fold's study."""
        return self.spec.runs / self.study_name(number)

    def speakers(self, number: int) -> Mapping[str, int]:
        """The speakers that an outer fold tests, with their numbers of utterances."""
        people = self.task.samples("acoustic").people
        named = (people[i] for i in self.splits[number - 1].acoustic_test.tolist())
        return dict(sorted(Counter(name for name in named if name is not None).items()))

    def outer_spec(
        self,
        number: int,
        time_budget: float | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> StudySpec:
        """The study of an outer fold.

        Args:
            number: The outer fold, from 1.
            time_budget: What its search may take [s]; None: no limit.
            tags: Tags of its runs that name the nested study.
        """
        given = {k: v for k, v in self.spec.options.items() if k not in _OF_THE_WHOLE}
        options: dict[str, object] = {
            **given,
            "study": self.study_name(number),
            "outer": str(OuterFold(number, self.count)),
            "folds": self.spec.settings.split.folds,
            "score_test": True,
        }
        if time_budget is not None:
            options["time_budget"] = max(1.0, float(round(time_budget)))
        return replace(resolve(options), extra_tags=tags or {})

    def facts(self, data: str | None) -> Facts:
        """What study.json has of it, beside how it was started. data: the task's fingerprint; None
        where it is not known yet."""
        own = {NESTED: self.nested, OUTER_FOLDS: self.count}
        return {**own, **asdict(self.spec.identity(data))}


def plan_nested(spec: StudySpec, task: Task) -> NestedPlan:
    """Divide the speakers, and check each outer fold and its inner ones, before anything is
    started. DataError or ConfigError where the data do not allow them.

    Args:
        spec: The nested study.
        task: Its data.
    """
    nested, seed = spec.study.nested, spec.settings.split.split_seed
    assert nested is not None
    wanted = None if nested == LOSO else int(nested)
    count = len(outer_folds(task.samples("acoustic"), wanted, seed))
    decided = decide_folds(spec, task, str(OuterFold(1, count)))
    division = decided.spec.settings.split
    trained = [
        trained_splits(task, replace(division, outer=str(OuterFold(number, count))))
        for number in range(1, count + 1)
    ]
    return NestedPlan(
        decided.spec,
        task,
        tuple(splits[0] for splits in trained),
        max(map(len, trained)) if division.has_folds else 0,
        folds_line(decided),
    )


def check_same_nested(plan: NestedPlan, data: str | None) -> None:
    """Refuse another study under the name of a nested one, or of one of its outer folds, with a
    StudyError. An outer fold that is done stays as it was tested.

    Args:
        plan: The nested study.
        data: The task's fingerprint; None where it is not known yet.
    """
    recorded = read_study_file(plan.folder)
    if recorded is not None and NESTED not in recorded:
        raise StudyError(
            f"study '{plan.name}' exists in {plan.folder} and is not nested: choose another"
            " --study, or leave out --nested to continue it"
        )
    if recorded is not None:
        differing = describe_differences(recorded, plan.spec.identity(data))
        if recorded[OUTER_FOLDS] != plan.count:
            differing.insert(0, f"{recorded[OUTER_FOLDS]} outer folds, now {plan.count}")
        if differing:
            raise StudyError(
                f"nested study '{plan.name}' exists in {plan.folder} with {'; '.join(differing)}:"
                " choose another --study, or the same settings to continue it"
            )
    storage = plan.spec.study.storage
    place = "journal" if storage is None else mask_password(storage)
    for number in plan.numbers:
        name, folder = plan.study_name(number), plan.study_folder(number)
        if read_study_file(folder) is None:
            continue
        identity = plan.outer_spec(number).identity(data)
        check_same_study(RequestedStudy(name, folder, place, identity))
        _check_trials(plan, folder)


def _check_trials(plan: NestedPlan, folder: Path) -> None:
    try:
        result = StudyResult.load(folder)
    except ResultError:
        return
    if result.test is not None and result.wanted != plan.spec.trials:
        raise StudyError(
            f"outer fold '{folder.name}' was tested after a search of {result.wanted} trials, and"
            f" is not tested again after one of {plan.spec.trials}: give --trials {result.wanted},"
            " or choose another --study"
        )
