"""Everything that promotion and report need to know of a study, gathered for tracking/result.py."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import optuna
import torch
from optuna import distributions
from optuna.trial import FrozenTrial, TrialState

from fdan.data.provenance import origin
from fdan.data.split import describe
from search.results.effects import effects
from search.results.embedding import embedding
from search.results.importance import importances
from search.selection.checks import check_model
from search.selection.confirm import Setting, confirmation, confirming_runs
from search.selection.test_score import stored_score
from search.selection.winner import ChosenModel, StudyData
from search.study.events import REASON
from search.study.folder import command_line
from search.study.status import complete_trials, count_finished
from search.worker.trial_folder import read_epoch_log, trial_folder
from tracking import result
from tracking.tags import COMPLETE, GIT, SEARCH, TIME_PREFIX, VERSION_PREFIX, run_key
from tracking.tracker import Tracker
from tracking.uri import mask_password

EXPERIMENT: Final = "fdan-search"  # MLflow's experiment, which holds all studies
_CURVES: Final = 10  # number of trials, the best ones, whose learning curves the result has


@dataclass(frozen=True)
class StudyEnd:
    """How a study ended."""

    state: str  # COMPLETE, or PAUSED where the same command continues it
    text: str
    reason: str  # why it ended early; empty where it did not

    @property
    def complete(self) -> bool:
        return self.state == COMPLETE


def study_result(
    data: StudyData,
    settings: list[Setting],
    chosen: ChosenModel | None,
    end: StudyEnd,
    tracker: Tracker,
    interruptions: Callable[[int], int],
) -> result.StudyResult:
    """Gather the result of a study.

    Args:
        data: The study with its data.
        settings: Settings that were confirmed.
        chosen: The model that the study stands for; None where no trial is complete.
        end: End of the study.
        tracker: Tracker of the study.
        interruptions: Function from a trial's number to how often its worker was lost.
    """
    spec, study = data.spec, data.study
    trials, scored = _started_trials(study), stored_score(study)
    confirmed = confirmation(study, settings)
    noise = None if confirmed is None else confirmed.noise
    return result.StudyResult(
        study=study.study_name,
        study_id=tracker.study_id,
        experiment=EXPERIMENT,
        task=data.task.name,
        state=end.state,
        reason=end.text,
        wanted=spec.trials,
        counts=count_finished(study),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(spec.arguments, spec.runs),
        tracking_uri=mask_password(spec.tracking_uri),
        page=tracker.sender.server.page,
        space={d.name: _dimension(d.distribution) for d in spec.space.dimensions},
        fixed=spec.fixed,
        sampler=spec.search.sampler,
        pruner=spec.search.pruner,
        epochs=spec.epochs,
        origin=origin(data.task, spec.settings.split),
        parts=tuple(
            result.Part(name, modality, part.emotions, part.speakers)
            for part in describe(data.task, data.split)
            for modality, name in (part.part.split(" "),)
        ),
        unreadable=tuple(
            result.UnreadableFile(file["path"], file["reason"])
            for store in (*data.task.acoustic, *data.task.visual)
            for file in store.unreadable
        ),
        baseline=data.baseline_uar,
        versions={
            name.removeprefix(VERSION_PREFIX): str(value)
            for name, value in data.tags.items()
            if name.startswith(VERSION_PREFIX)
        },
        git=str(data.tags[GIT]),
        cost=_cost(data, trials),
        trials=tuple(_trial(trial, interruptions(trial.number)) for trial in trials),
        importances=importances(study),
        curves=_curves(data),
        embedding=None if chosen is None else embedding(chosen),
        confusion=result.Confusions(
            validation=None if chosen is None else _validation(chosen),
            test=None if scored is None else scored.confusion,
        ),
        confirm=confirmed,
        test=None if scored is None else scored.score,
        checks=() if chosen is None else check_model(chosen),
        effects=effects(study, {d.name: d.distribution for d in spec.space.dimensions}, noise),
        yardsticks=data.yardsticks,
        folds=len(data.folds),
    )


def _dimension(distribution: distributions.BaseDistribution) -> result.Dimension:
    match distribution:
        case distributions.CategoricalDistribution(choices=choices):
            return result.Choices("categorical", tuple(choices))
        case distributions.IntDistribution(low=low, high=high, log=log):
            return result.Range("int", low, high, log)
        case distributions.FloatDistribution(low=low, high=high, log=log):
            return result.Range("float", low, high, log)
    raise AssertionError(distribution)


def _trial(trial: FrozenTrial, interruptions: int) -> result.TrialRecord:
    return result.TrialRecord(
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


def _cost(data: StudyData, trials: list[FrozenTrial]) -> result.Cost:
    device = "cpu"
    if data.spec.device == "cuda":
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "GPU"
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return result.Cost(
        device=device,
        trial_seconds=sum(map(_seconds, trials)),
        confirm_seconds=sum(map(_seconds, confirming_runs(data.study))),
        epochs_trained=sum(trial.last_step or 0 for trial in trials),
        epochs_planned=len(ended) * data.spec.epochs,
    )


def _curves(data: StudyData) -> dict[str, dict[str, result.Curve]]:
    curves: dict[str, dict[str, result.Curve]] = {}
    for trial in complete_trials(data.study)[:_CURVES]:
        points: dict[str, list[tuple[int, float]]] = {}
        reports = read_epoch_log(trial_folder(data.folder, trial.number))
        for epoch, report in sorted(reports.items()):
            for name, value in report.metrics.items():
                if not name.startswith(TIME_PREFIX):
                    points.setdefault(name, []).append((epoch, value))
        curves[str(trial.number)] = {name: tuple(curve) for name, curve in points.items()}
    return curves


def _validation(chosen: ChosenModel) -> result.Matrix | None:
    """The confusion matrix that the model's trainer reported."""
    report = read_epoch_log(chosen.trained).get(chosen.checkpoint.epoch)
    return None if report is None else tuple(map(tuple, report.confusion))


def trials_csv(study: optuna.Study, run_ids: Mapping[str, str]) -> str:
    """The table of a study's trials: number, state, value, epochs, seconds, reason and the id of
    MLflow's run, then the settings.

    Args:
        study: The study.
        run_ids: Ids of MLflow's runs by their keys.
    """
    trials = _started_trials(study)
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "state", "value", "epochs", "seconds", "reason", "run_id", *names])
    for trial in trials:
        seconds = None if trial.duration is None else round(_seconds(trial), 1)
        reason, params = trial.user_attrs.get(REASON, ""), map(trial.params.get, names)
        epochs, run = trial.last_step or 0, run_ids.get(run_key(trial.number, SEARCH))
        writer.writerow(
            [trial.number, trial.state.name, trial.value, epochs, seconds, reason, run, *params]
        )
    return text.getvalue()


def _started_trials(study: optuna.Study) -> list[FrozenTrial]:
    return [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
