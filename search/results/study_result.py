"""Everything that promotion and report need to know of a study, gathered for tracking/result.py."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from fdan.data.provenance import origin
from fdan.data.split import describe
from fdan.inference.model_folder import SpeechModel
from search.results.embedding import embedding
from search.results.importance import importances
from search.results.provenance import tags
from search.selection import confirm
from search.selection import winner as ending
from search.selection.test_score import Tested
from search.selection.test_score import as_dict as test_as_dict
from search.study import open as study
from search.study.start_record import command_line
from search.worker.epoch_log import read_epoch_log
from search.worker.trial_folder import trial_folder
from tracking.result import Result
from tracking.tags import TIME_PREFIX
from tracking.uri import mask_password

_CURVES = 10
"""Trials whose learning curves are kept: the best ones."""


def result(
    of: ending.Study,
    settings: list[confirm.Setting],
    found: Tested | None,
    *,
    model: SpeechModel | None,
    study_id: str,
    experiment: str,
    page: str | None,
    state: str,
    reason: str,
    baseline: float | None,
    interruptions: Callable[[int], int],
) -> Result:
    """The study's result. model: the one it stands for, None where no trial is complete."""
    spec, opened = of.spec, of.opened
    trials = [t for t in opened.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
    config = spec.settings.split
    labels = tags(spec, of.task)
    return Result(
        study=opened.study_name,
        study_id=study_id,
        experiment=experiment,
        task=of.task.name,
        state=state,
        reason=reason,
        wanted=spec.trials,
        counts=study.counts(opened),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(spec.arguments),
        tracking_uri=mask_password(spec.tracking_uri),
        page=page,
        space={d.name: _dimension(d.distribution) for d in spec.space.dimensions},
        fixed=spec.fixed,
        sampler=spec.search.sampler,
        pruner=spec.search.pruner,
        epochs=spec.epochs,
        origin=origin(of.task, config),
        parts=[
            {
                "part": part.part.partition(" ")[2],
                "modality": part.part.partition(" ")[0],
                "emotions": part.emotions,
                "speakers": part.speakers,
            }
            for part in describe(of.task, of.parts)
        ],
        unreadable=[
            {"path": one["path"], "reason": one["reason"]}
            for store in (*of.task.acoustic, *of.task.visual)
            for one in store.unreadable
        ],
        baseline=baseline,
        versions={
            name.removeprefix("version."): str(value)
            for name, value in labels.items()
            if name.startswith("version.")
        },
        git=str(labels["git"]),
        cost=_cost(of, trials),
        trials=[_trial(one, interruptions(one.number)) for one in trials],
        importances=importances(opened),
        curves=_curves(of, trials),
        embedding=None if model is None else _embedding(of, model),
        confusion={
            "validation": None if model is None else _validation(of, model),
            "test": None if found is None else found.confusion,
        },
        confirm=confirm.as_dict(settings),
        test=None if found is None else test_as_dict(found),
        checks=[] if model is None else ending.checks(of, model, settings),
    )


def _dimension(distribution: BaseDistribution) -> dict[str, Any]:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return {"type": "categorical", "choices": list(choices)}
        case IntDistribution(low=low, high=high, log=log):
            return {"type": "int", "low": low, "high": high, "log": log}
        case FloatDistribution(low=low, high=high, log=log):
            return {"type": "float", "low": low, "high": high, "log": log}
    raise AssertionError(distribution)


def _trial(one: FrozenTrial, interruptions: int) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": one.state.name,
        "reason": one.user_attrs.get(study.REASON, ""),
        "params": dict(one.params),
        "value": one.value if one.state is TrialState.COMPLETE else None,
        "epochs": one.last_step or 0,
        "seconds": _seconds(one),
        "interruptions": interruptions,
        "values": [list(pair) for pair in sorted(one.intermediate_values.items())],
    }


def _seconds(one: FrozenTrial) -> float:
    return 0.0 if one.duration is None else one.duration.total_seconds()


def _cost(of: ending.Study, trials: list[FrozenTrial]) -> dict[str, Any]:
    device = "cpu"
    if of.spec.device == "cuda":
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"
    ended = [one for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return {
        "device": device,
        "trial_seconds": sum(map(_seconds, trials)),
        "confirm_seconds": sum(map(_seconds, confirm.runs_of(of.opened))),
        "epochs_trained": sum(one.last_step or 0 for one in trials),
        "epochs_planned": len(ended) * of.spec.epochs,
    }


def _curves(of: ending.Study, trials: list[FrozenTrial]) -> dict[str, dict[str, list[list[float]]]]:
    complete = [one for one in trials if one.state is TrialState.COMPLETE]
    complete.sort(key=lambda one: (-(one.value or 0.0), one.number))
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for one in complete[:_CURVES]:
        curve = curves[str(one.number)] = {}
        for epoch, report in sorted(read_epoch_log(trial_folder(of.folder, one.number)).items()):
            for name, value in report.metrics.items():
                if not name.startswith(TIME_PREFIX):
                    curve.setdefault(name, []).append([epoch, value])
    return curves


def _embedding(of: ending.Study, model: SpeechModel) -> dict[str, Any] | None:
    return embedding(ending.checkpoint_of(of, model), of.load(model.run), of.task, of.parts)


def _validation(of: ending.Study, model: SpeechModel) -> list[list[int]] | None:
    """As its trainer reported it."""
    checkpoint, folder = ending.checkpoint_of(of, model), ending.trial_of(of, model)
    report = read_epoch_log(folder).get(checkpoint.epoch)
    return None if report is None else [list(row) for row in report.confusion]
