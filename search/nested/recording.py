"""What a nested study leaves: nested.json and its report in its folder, and a run of its own in
MLflow, which the runs of its outer folds' studies name in their tags."""

from __future__ import annotations

import contextlib
import shlex
import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from search.config.options import sections
from search.nested.plan import NestedPlan
from search.results.provenance import parameters, tags
from search.results.study_result import EXPERIMENT
from search.study.folder import read_study_file, record_start, write_study_file
from tracking import report
from tracking.nested_result import NestedResult, PooledScore
from tracking.result import NESTED_RESULT
from tracking.tags import NESTED, NESTED_ID, OUTER, STUDY_RUN, TEST_PREFIX, YARDSTICK_PREFIX
from tracking.tracker import Tracker

_BEGIN_S: Final = 10.0  # how long the first outer fold waits for MLflow


def record_begin(plan: NestedPlan) -> str:
    """Write study.json, so that the study's name alone continues it, and open its run in MLflow.
    Returns the value of MLflow's tag fdan.study_id."""
    spec, folder = plan.spec, plan.folder
    if read_study_file(folder) is None:
        write_study_file(folder, {"id": uuid.uuid4().hex, **plan.facts(plan.task.fingerprint)})
    record_start(folder, spec.trials, spec.arguments, sections(spec.lasting_options))
    with _run_in_mlflow(plan) as tracker:
        tracker.drain(_BEGIN_S)
        return tracker.study_id


def outer_tags(plan: NestedPlan, study_id: str) -> Mapping[str, str]:
    """Tags of an outer fold's runs that name the nested study.

    Args:
        plan: The nested study.
        study_id: The value of MLflow's tag fdan.study_id.
    """
    return {NESTED: plan.name, NESTED_ID: study_id}


def record_result(
    plan: NestedPlan, result: NestedResult, wait_s: float, *, ended: bool = False
) -> str:
    """Write what is done so far, and send it to MLflow. Returns a line for the user where that has
    not arrived there.

    Args:
        plan: The nested study.
        result: Its result so far.
        wait_s: How long to wait for MLflow [s].
        ended: Whether the nested study ends with this, and its run in MLflow with it.
    """
    folder = plan.folder
    result.save(folder)
    files = [folder / NESTED_RESULT, *report.write(folder)]
    with _run_in_mlflow(plan) as tracker:
        for fold in result.folds:
            seen = {"search_uar": fold.search_uar, "test_uar": fold.test_uar}
            if fold.confirmed_uar is not None:
                seen["confirmed_uar"] = fold.confirmed_uar
            metrics = {f"{OUTER}/{fold.fold}/{name}": value for name, value in seen.items()}
            tracker.log_metrics(STUDY_RUN, 0, metrics)
        if result.pooled is not None:
            tracker.log_metrics(STUDY_RUN, len(result.folds), _pooled_metrics(result.pooled))
        for file in files:
            tracker.log_artifact(STUDY_RUN, file, "study")
        if ended:
            tracker.close_run(STUDY_RUN, result.state, result.reason)
        if tracker.drain(wait_s):
            return ""
        return (
            f"{tracker.unsent} records wait for MLflow ({tracker.sender.reason or 'slow'}); they"
            f" are safe: python -m tracking flush {shlex.quote(str(folder))}"
        )


@contextlib.contextmanager
def _run_in_mlflow(plan: NestedPlan) -> Iterator[Tracker]:
    """The nested study's own run. Open for a moment at a time: in between, the trackers of the
    outer folds write."""
    spec, task = plan.spec, plan.task
    own = {**tags(spec, task, plan.inner_folds), NESTED: plan.name}
    params = {**parameters(spec, task), "nested": plan.nested, "outer_folds": plan.count}
    with Tracker(plan.folder / "spool", spec.tracking_uri, EXPERIMENT) as tracker:
        tracker.open_study(plan.name, params, {**own, NESTED_ID: tracker.study_id})
        yield tracker


def _pooled_metrics(pooled: PooledScore) -> dict[str, float]:
    metrics = {
        "uar": pooled.uar,
        "war": pooled.war,
        "wf1": pooled.wf1,
        "uar_low": pooled.interval.low,
        "uar_high": pooled.interval.high,
    }
    for yardstick in pooled.yardsticks:
        prefix = f"{YARDSTICK_PREFIX}{yardstick.name}"
        metrics[f"{prefix}/uar"] = yardstick.uar
        metrics[f"{prefix}/difference"] = yardstick.difference.value
        metrics[f"{prefix}/p"] = yardstick.difference.p
    return {TEST_PREFIX + name: value for name, value in metrics.items()}
