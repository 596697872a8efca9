"""What the outer folds of a nested study came to: read from their studies' folders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fdan.errors import DataError
from fdan.evaluation.predictions import Predictions, pooled_predictions
from fdan.evaluation.statistics import LEVEL, bootstrap
from fdan.evaluation.yardsticks import YARDSTICKS
from search.nested.plan import NestedPlan
from search.results.study_result import EXPERIMENT
from search.selection.winner import BEST
from search.selection.yardsticks import score_yardstick
from search.study.folder import command_line
from tracking.nested_result import Agreement, NestedResult, OuterResult, PooledScore
from tracking.report.selectors import winner, winners_test
from tracking.result import (
    PREDICTIONS,
    WINNER,
    YARDSTICK_PREDICTIONS,
    Dimension,
    ParameterValue,
    Range,
    ResultError,
    ScoreInterval,
    StudyResult,
)
from tracking.tags import COMPLETE, PAUSED
from tracking.uri import mask_password


def outer_result(plan: NestedPlan, number: int) -> OuterResult | None:
    """What came of an outer fold; None where its study is not finished, or the model that it stands
    for is not the one that was tested.

    Args:
        plan: The nested study.
        number: The outer fold, from 1.
    """
    folder = plan.study_folder(number)
    try:
        result = StudyResult.load(folder)
        Predictions.read(_answers(folder, PREDICTIONS))
    except (ResultError, DataError):
        return None
    test, best = winners_test(result), winner(result)
    if result.state != COMPLETE or test is None or best is None or best.value is None:
        return None
    confirm = result.confirm
    return OuterResult(
        fold=number,
        study=result.study,
        speakers=plan.speakers(number),
        trials=sum(result.counts.values()),
        trial=best.number,
        params=best.params,
        search_uar=best.value,
        confirmed_uar=None if confirm is None else confirm.settings[0].mean,
        test_uar=test.uar,
        samples=test.samples,
    )


def nested_result(plan: NestedPlan, study_id: str, reason: str = "") -> NestedResult:
    """Gather what is done so far.

    Args:
        plan: The nested study.
        study_id: The value of MLflow's tag fdan.study_id.
        reason: Why it ends before all outer folds are done; empty where it does not.
    """
    spec = plan.spec
    found = (outer_result(plan, number) for number in plan.numbers)
    folds = tuple(fold for fold in found if fold is not None)
    done = f"{len(folds)} of {plan.count} outer folds"
    return NestedResult(
        study=plan.name,
        study_id=study_id,
        experiment=EXPERIMENT,
        task=plan.task.name,
        outer=plan.count,
        nested=str(plan.nested),
        inner_folds=str(spec.settings.split.folds),
        state=COMPLETE if len(folds) == plan.count else PAUSED,
        reason=f"{done}: {reason}" if reason else done,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(spec.arguments, spec.runs),
        tracking_uri=mask_password(spec.tracking_uri),
        folds=folds,
        agreement=_agreements(plan, folds),
        pooled=_pooled([plan.study_folder(fold.fold) for fold in folds]) if folds else None,
    )


def _answers(folder: Path, name: str) -> Path:
    """The answers that lie beside the model that a study stands for."""
    model = folder / WINNER
    return (model if model.is_dir() else folder / BEST) / name


def _pooled(folders: Sequence[Path]) -> PooledScore:
    """The answers of these outer folds' studies as one, beside the yardsticks that each has."""
    answers = pooled_predictions([Predictions.read(_answers(f, PREDICTIONS)) for f in folders])
    measured, yardsticks = answers.measures(), []
    for yardstick in YARDSTICKS:
        files = [_answers(f, YARDSTICK_PREDICTIONS.format(yardstick.name)) for f in folders]
        if all(file.exists() for file in files):
            others = pooled_predictions([Predictions.read(file) for file in files])
            yardsticks.append(score_yardstick(yardstick, others, answers))
    return PooledScore(
        samples=len(answers),
        uar=measured.uar,
        war=measured.war,
        wf1=measured.wf1,
        interval=_interval(answers),
        yardsticks=tuple(yardsticks),
    )


def _interval(answers: Predictions) -> ScoreInterval:
    found = bootstrap(answers)
    return ScoreInterval(found.low, found.high, LEVEL, found.groups, found.by)


def _agreements(plan: NestedPlan, folds: Sequence[OuterResult]) -> Mapping[str, Agreement]:
    """Of each setting that was searched, how far the winners agree."""
    space: Mapping[str, Dimension] = {}
    if folds:
        space = StudyResult.load(plan.study_folder(folds[0].fold)).space
    return {
        name: _agreement(dimension, [fold.params.get(name) for fold in folds])
        for name, dimension in space.items()
    }


def _agreement(dimension: Dimension, values: Sequence[ParameterValue]) -> Agreement:
    chosen = [value for value in values if value is not None]
    spread = None
    if len(chosen) > 1 and isinstance(dimension, Range):
        places = [_place(dimension, value) for value in chosen]
        spread = min(1.0, max(places) - min(places))
    elif len(chosen) > 1:
        most = max(chosen.count(value) for value in chosen)
        spread = (len(chosen) - most) / (len(chosen) - 1)
    return Agreement(tuple(values), spread)


def _place(dimension: Range, value: ParameterValue) -> float:
    """Where a value lies in the searched range, 0 .. 1."""
    assert isinstance(value, int | float)
    low, high, at = dimension.low, dimension.high, float(value)
    if dimension.log and min(low, at) > 0:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low) if high > low else 0.0
