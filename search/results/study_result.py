"""Everything that promotion and report need to know of a study, gathered for tracking/result.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from fdan.data.provenance import origin
from fdan.data.split import describe
from search.results.embedding import embedding
from search.results.importance import importances
from search.results.provenance import tags
from search.selection.checks import check_model
from search.selection.confirm import Setting, confirmation, confirming_runs
from search.selection.study_data import ChosenModel, StudyData
from search.selection.test_score import stored_score
from search.study.events import REASON
from search.study.folder import command_line
from search.study.status import count_finished, ranking_key
from search.worker.trial_folder import read_epoch_log, trial_folder
from tracking.result import (
    Choices,
    Confusions,
    Cost,
    Curve,
    Dimension,
    Embedding,
    Matrix,
    Part,
    Range,
    StudyResult,
    TrialRecord,
    UnreadableFile,
)
from tracking.tags import TIME_PREFIX
from tracking.uri import mask_password

_CURVES = 10
"""Trials whose learning curves are kept: the best ones."""


@dataclass(frozen=True)
class StudyEnd:
    """How a search ended, beside what its study's storage holds."""

    state: str
    """COMPLETE or PAUSED"""
    reason: str
    baseline: float | None
    study_id: str
    experiment: str
    page: str | None
    """path of the experiment in MLflow's UI"""
    interruptions: Callable[[int], int]
    """a trial's number -> how often its worker was lost"""


def study_result(
    data: StudyData, settings: list[Setting], chosen: ChosenModel | None, end: StudyEnd
) -> StudyResult:
    """Gather the result of a study.

    Args:
        data: The study with its data.
        settings: Settings that were confirmed.
        chosen: The model that the study stands for; None where no trial is complete.
        end: End of the search.
    """
    spec, study = data.spec, data.study
    trials = [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
    labels, scored = tags(spec, data.task), stored_score(study)
    return StudyResult(
        study=study.study_name,
        study_id=end.study_id,
        experiment=end.experiment,
        task=data.task.name,
        state=end.state,
        reason=end.reason,
        wanted=spec.trials,
        counts=count_finished(study),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(spec.arguments),
        tracking_uri=mask_password(spec.tracking_uri),
        page=end.page,
        space={d.name: _dimension(d.distribution) for d in spec.space.dimensions},
        fixed=spec.fixed,
        sampler=spec.search.sampler,
        pruner=spec.search.pruner,
        epochs=spec.epochs,
        origin=origin(data.task, spec.settings.split),
        parts=tuple(
            Part(name, modality, part.emotions, part.speakers)
            for part in describe(data.task, data.split)
            for modality, _, name in (part.part.partition(" "),)
        ),
        unreadable=tuple(
            UnreadableFile(file["path"], file["reason"])
            for store in (*data.task.acoustic, *data.task.visual)
            for file in store.unreadable
        ),
        baseline=end.baseline,
        versions={
            name.removeprefix("version."): str(value)
            for name, value in labels.items()
            if name.startswith("version.")
        },
        git=str(labels["git"]),
        cost=_cost(data, trials),
        trials=tuple(_trial(trial, end.interruptions(trial.number)) for trial in trials),
        importances=importances(study),
        curves=_curves(data, trials),
        embedding=None if chosen is None else _embedding(data, chosen),
        confusion=Confusions(
            validation=None if chosen is None else _validation(data, chosen),
            test=None if scored is None else scored.confusion,
        ),
        confirm=confirmation(settings),
        test=None if scored is None else scored.score,
        checks=() if chosen is None else check_model(data, chosen, settings),
    )


def _dimension(distribution: BaseDistribution) -> Dimension:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return Choices("categorical", tuple(choices))
        case IntDistribution(low=low, high=high, log=log):
            return Range("int", low, high, log)
        case FloatDistribution(low=low, high=high, log=log):
            return Range("float", low, high, log)
    raise AssertionError(distribution)


def _trial(trial: FrozenTrial, interruptions: int) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        reason=trial.user_attrs.get(REASON, ""),
        params=dict(trial.params),
        value=trial.value if trial.state is TrialState.COMPLETE else None,
        epochs=trial.last_step or 0,
        seconds=_seconds(trial),
        interruptions=interruptions,
        values=tuple(sorted(trial.intermediate_values.items())),
    )


def _seconds(trial: FrozenTrial) -> float:
    return 0.0 if trial.duration is None else trial.duration.total_seconds()


def _cost(data: StudyData, trials: list[FrozenTrial]) -> Cost:
    device = "cpu"
    if data.spec.device == "cuda":
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return Cost(
        device=device,
        trial_seconds=sum(map(_seconds, trials)),
        confirm_seconds=sum(map(_seconds, confirming_runs(data.study))),
        epochs_trained=sum(trial.last_step or 0 for trial in trials),
        epochs_planned=len(ended) * data.spec.epochs,
    )


def _curves(data: StudyData, trials: list[FrozenTrial]) -> dict[str, dict[str, Curve]]:
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    complete.sort(key=lambda trial: ranking_key(trial.value or 0.0, trial.number))
    curves: dict[str, dict[str, Curve]] = {}
    for trial in complete[:_CURVES]:
        points: dict[str, list[tuple[int, float]]] = {}
        for epoch, report in sorted(
            read_epoch_log(trial_folder(data.folder, trial.number)).items()
        ):
            for name, value in report.metrics.items():
                if not name.startswith(TIME_PREFIX):
                    points.setdefault(name, []).append((epoch, value))
        curves[str(trial.number)] = {name: tuple(curve) for name, curve in points.items()}
    return curves


def _embedding(data: StudyData, chosen: ChosenModel) -> Embedding | None:
    return embedding(
        chosen.checkpoint(data.folder), data.load(chosen.model.run), data.task, data.split
    )


def _validation(data: StudyData, chosen: ChosenModel) -> Matrix | None:
    """The confusion matrix that the model's trainer reported."""
    epochs = read_epoch_log(chosen.trial_folder(data.folder))
    report = epochs.get(chosen.checkpoint(data.folder).epoch)
    return None if report is None else tuple(map(tuple, report.confusion))
