"""`--folds auto`, resolved: whether a study's trials train folds, and why."""

from dataclasses import replace
from typing import NamedTuple

from fdan.data.folds import default_folds
from fdan.data.split import AUTO_FOLDS, NO_FOLDS
from fdan.data.task import Task
from search.config.spec import StudySpec
from search.study.folder import read_study_file


class DecidedFolds(NamedTuple):
    """A study whose folds are decided, and why they are these; empty where an option says so."""

    spec: StudySpec
    reason: str


def decide_folds(spec: StudySpec, task: Task, outer: str | None = None) -> DecidedFolds:
    """Decide on the folds of a study, once its data are known. A study that exists keeps what it
    has: none, where it is of a release that had no folds.

    Args:
        spec: The study.
        task: Its data.
        outer: An outer fold that it consists of, where it is nested: all of them have the same.
    """
    config = spec.settings.split
    if config.folds != AUTO_FOLDS:
        return DecidedFolds(spec, "")
    recorded = read_study_file(spec.runs / spec.name(task))
    before = {} if recorded is None else recorded.get("split") or {}
    if before.get("protocol") == config.protocol:
        folds = before.get("folds", NO_FOLDS)
        return DecidedFolds(spec.with_folds(folds), "as this study has had from its beginning")
    default = default_folds(task, config if outer is None else replace(config, outer=outer))
    return DecidedFolds(spec.with_folds(default.folds), default.reason)


def folds_line(decided: DecidedFolds) -> str:
    """What was decided and why, for the user; empty where an option says so."""
    folds = decided.spec.settings.split.folds
    if not decided.reason:
        return ""
    return f"{'one split' if folds == NO_FOLDS else f'folds {folds}'}: {decided.reason}"
