"""A nested study from its spec to its result: for each outer fold a study of its own runs through
the pipeline of any study (search/pipeline.py), one after the other.

Nothing of its own has to survive: each of those studies does. The same command passes over the
outer folds that are done and goes on with the one that was under way.

`run_nested` runs all of it from Python; `python search/run.py --nested ...` does the same.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from fdan.cli.terminal import Preparing
from fdan.corpora.demo import BackgroundDemo
from fdan.data.open_task import naming_left_out, prepare_task
from fdan.errors import ConfigError, FdanError
from search import pipeline
from search.config.spec import StudySpec
from search.nested.outcome import nested_result, outer_result
from search.nested.plan import NestedPlan, check_same_nested, plan_nested
from search.nested.recording import outer_tags, record_begin, record_result
from search.nested.summary import nested_summary, outer_line
from search.stages import notifier
from search.study.folder import driver_lock, write_begun
from tracking.backend.moved import mend_places
from tracking.nested_result import NestedResult
from tracking.tags import COMPLETE

_DRAIN_S: Final = 60.0  # how long the end waits for MLflow
_BETWEEN_S: Final = 10.0  # how long the next outer fold does


@dataclass(frozen=True)
class FinishedNested:
    """Outcome of a nested study. exit_code: as that of a study (search/stages.py)."""

    result: NestedResult
    summary: str
    exit_code: int


def run_nested(spec: StudySpec) -> NestedResult:
    """Run a nested study, or continue the one of its name, to its end.

    In the main thread, the first Ctrl-C ends it early: the same call continues it.

    Args:
        spec: `StudySpec.make(nested="loso", ...)`.

    Raises:
        FdanError: A mistake that the user can correct, in one line.
    """
    if spec.study.nested is None:
        raise ConfigError("nested = None: run_nested runs nested studies; call run_study(spec)")
    return run(spec).result


def run(spec: StudySpec, demo: BackgroundDemo | None = None) -> FinishedNested:
    """Run a nested study as the command does.

    Args:
        spec: The nested study.
        demo: Demo corpus that is being written already.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    notify = notifier(console)
    spec = pipeline.start_driver(spec, notify)
    with contextlib.ExitStack() as driving:
        if spec.study.study is not None:  # otherwise its data name it
            folder = spec.runs / spec.study.study
            driving.enter_context(driver_lock(folder))
            write_begun(folder, spec.arguments)
        with Preparing(console) as progress:
            task = prepare_task(spec.data, spec.settings, progress, demo)
        with naming_left_out(task):
            plan = plan_nested(spec, task)
        check_same_nested(plan, task.fingerprint)
        if spec.study.study is None:
            driving.enter_context(driver_lock(plan.folder))
        mend_places(spec.tracking_uri, notify)
        if spec.remembered:
            notify(f"study {plan.name}, as before: {shlex.join(spec.remembered)}")
        notify(f"nested study {plan.name}: {plan.count} outer folds, each searched by itself")
        if plan.folds_line:
            notify(plan.folds_line)
        return _run_outer_folds(plan, start, notify)


def _run_outer_folds(
    plan: NestedPlan, start: float, notify: Callable[[str], None]
) -> FinishedNested:
    study_id = record_begin(plan)
    try:
        reason, code = _search_outer_folds(plan, study_id, notify)
    except BaseException as error:
        reason, wait_s = " ".join(str(error).split()) or type(error).__name__, 10.0
        if isinstance(error, KeyboardInterrupt):  # the second one: at once
            reason, wait_s = "stopped by the user", 2.0
        # What ends it must not be hidden by what cannot be written any more.
        with contextlib.suppress(FdanError, OSError):
            record_result(plan, nested_result(plan, study_id, reason), wait_s, ended=True)
        raise
    result = nested_result(plan, study_id, reason)
    if waiting := record_result(plan, result, _DRAIN_S, ended=True):
        notify(waiting)
    text = nested_summary(result, plan.folder, time.monotonic() - start)
    return FinishedNested(result, text, code)


def _search_outer_folds(
    plan: NestedPlan, study_id: str, notify: Callable[[str], None]
) -> tuple[str, int]:
    """Run what is left. Returns why it ended early, empty where it did not, and the exit code."""
    left = [number for number in plan.numbers if outer_result(plan, number) is None]
    for number in plan.numbers:
        if number not in left and (done := outer_result(plan, number)) is not None:
            notify(f"{outer_line(done, plan.count)}: done before")
    budget, began = plan.spec.study.time_budget, time.monotonic()
    for place, number in enumerate(left):
        share = None
        if budget is not None:
            remaining = budget - (time.monotonic() - began)
            if remaining <= 0:
                return "the time budget is spent", 0
            share = remaining / (len(left) - place)  # what one does not use goes to the others
        tested = ", ".join(plan.speakers(number))
        notify(f"outer fold {number} of {plan.count} tests {tested}: {plan.study_name(number)}")
        finished = pipeline.run(plan.outer_spec(number, share, outer_tags(plan, study_id)))
        done = outer_result(plan, number)
        if finished.exit_code:
            return f"outer fold {number}: {finished.result.reason}", finished.exit_code
        if done is None:
            return _untested(plan, number, finished.result.state), 1
        notify(outer_line(done, plan.count))
        record_result(plan, nested_result(plan, study_id), _BETWEEN_S)
    return "", 0


def _untested(plan: NestedPlan, number: int, state: str) -> str:
    name = plan.study_name(number)
    if state != COMPLETE:
        return f"outer fold {number}: study {name} is not finished"
    return (
        f"outer fold {number}: the test part of study {name} was scored for another model than its"
        f" winner; --study {name} --score-again 'REASON' scores this one, then the same command"
        " goes on"
    )
