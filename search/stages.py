"""The stages of a study: the search, the runs that confirm what it found, the model that it stands
for, its result, and its promotion. Each returns a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from fdan.files import write_atomic
from search.callbacks.checkpoint_retention import CheckpointRetention
from search.callbacks.early_stopping import EarlyStopping
from search.callbacks.fail_fast import FailFast
from search.callbacks.mlflow import MlflowCallback, TrialRuns
from search.callbacks.trial_figures import TrialFigures
from search.config.toml_file import to_toml
from search.results.study_result import StudyEnd, study_result
from search.results.trials_table import trials_csv
from search.selection.confirm import (
    ConfirmationQueue,
    Setting,
    confirmation_folder,
    confirmed_settings,
    fresh_seeds,
    nominate,
    open_confirmation,
    run_params,
)
from search.selection.study_data import ChosenModel, StudyData
from search.selection.test_score import score_test, stored_score
from search.selection.winner import write_models
from search.study.events import StudyCallback
from search.study.folder import share_checkpoints
from search.study.open import HOME
from search.study.status import count_finished, count_started, running_trials
from search.study.stopping import StopSignal
from search.tune.ray_session import RaySession
from search.tune.recovery import Round, RoundContext, run_round
from search.worker.data import WorkerData
from tracking import report
from tracking.promotion.isolated_model import IsolatedModel
from tracking.promotion.promote import PromotionOptions, Verdict, promote
from tracking.result import StudyResult
from tracking.tags import BASELINE_UAR, COMPLETE, CONFIRM, STUDY_RUN, TEST_PREFIX
from tracking.tracker import Tracker

EXPERIMENT: Final = "fdan-search"
"""MLflow's experiment, which holds all studies."""

DRAIN_S: Final = 60.0
"""How long the end waits for MLflow."""

_PAGE_S: Final = 10.0
"""How long the result waits for MLflow: the study's page is known once MLflow was reached."""


CONFIG: Final = "study.toml"
"""In a study's folder and its parent run: the options that make the study again (--config)."""


@dataclass(frozen=True)
class RunContext:
    """What the stages of a study share."""

    data: StudyData
    worker_data: WorkerData
    baseline_uar: float | None
    """Validation UAR that the search has to beat."""
    ray: RaySession
    drawing: TrialFigures
    tracker: Tracker
    tags: Mapping[str, Any]
    """Tags of every run in MLflow."""
    made_from: Mapping[str, Any]
    """Beside each trial's settings there: what it takes to train it again."""
    stop: StopSignal
    console: Console
    isolated_model: IsolatedModel

    def notify(self, text: str) -> None:
        """Show the user a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @property
    def round_context(self) -> RoundContext:
        return RoundContext(self.worker_data, self.ray, self.stop, self.console)


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended. state: COMPLETE, or PAUSED where the same command continues it; reason:
    why it ended early, or empty."""

    state: str
    text: str
    reason: str

    @property
    def complete(self) -> bool:
        return self.state == COMPLETE


def run_search(context: RunContext) -> Callable[[int], int]:
    """Run what is left of the search; returns how often each trial was interrupted."""
    data = context.data
    spec, study, folder = data.spec, data.study, data.folder
    name = study.study_name
    _share(data, folder, "search")
    mlflow = MlflowCallback(
        context.tracker,
        context.drawing,
        folder,
        TrialRuns(spec.fixed, context.tags, context.made_from),
    )
    mlflow.catch_up(study.get_trials(deepcopy=False))
    retention = CheckpointRetention(folder, study)
    started = count_started(name, study._storage)
    left = max(0, spec.trials - started)
    rules: list[StudyCallback] = [FailFast(context.stop, count_finished(study))]
    if left and (noise := spec.study.stop_early) is not None:
        rules.append(EarlyStopping.of_study(context.stop, noise, study, folder))
    if context.stop.final and not running_trials(study):
        context.notify(f"study {name}: {context.stop.reason}")
    elif left or running_trials(study):
        run_round(
            spec,
            Round(
                study=study,
                suggest=spec.space.suggest,
                sampler=spec.search.sampler,
                pruner=spec.search.pruner,
                trials=spec.trials,
                new_trials=left,
                folder=folder,
                callbacks=(mlflow, retention, *rules),
                title=name,
            ),
            context.round_context,
        )
    else:
        extend = spec.how_to_extend(started)
        context.notify(f"study {name} has {started} trials already: nothing to run ({extend})")
    mlflow.finish()
    return mlflow.interruptions


def run_confirmation(context: RunContext) -> list[Setting]:
    """Run the best settings again, as far as that was asked for and is not done; returns what was
    confirmed so far."""
    data, spec = context.data, context.data.spec
    nominated = nominate(data.study, spec.confirm.count)
    if not context.stop.due() and nominated:
        confirmation = open_confirmation(data.study)
        seeds = fresh_seeds(spec.seed, spec.confirm.seeds)
        queue = ConfirmationQueue(confirmation, nominated, seeds)
        folder = confirmation_folder(data.folder)
        fixed = {name: value for name, value in spec.fixed.items() if name != "seed"}
        runs = TrialRuns(fixed, context.tags, context.made_from, CONFIRM, queue.tags)
        mlflow = MlflowCallback(context.tracker, context.drawing, folder, runs)
        mlflow.catch_up(confirmation.get_trials(deepcopy=False), run_params)
        if queue.left or running_trials(confirmation):
            folder.mkdir(exist_ok=True)
            _share(data, folder, CONFIRM)
            context.notify(
                f"confirming the best {len(nominated)} with {len(seeds)} fresh seeds each"
            )
            run_round(
                spec,
                Round(
                    study=confirmation,
                    suggest=queue.suggest,
                    sampler="",
                    pruner="none",
                    trials=count_started(confirmation.study_name, confirmation._storage)
                    + queue.left,
                    new_trials=queue.left,
                    folder=folder,
                    callbacks=(mlflow,),
                    title=f"{data.study.study_name}, confirming",
                    noun="run",
                ),
                context.round_context,
            )
        mlflow.finish()
    return confirmed_settings(data.study)


def select_model(context: RunContext, settings: list[Setting]) -> ChosenModel | None:
    """Write the model that the study stands for, and score it on the test part if that was asked
    for and nothing can choose another model any more.

    Args:
        context: Context of the study.
        settings: Settings that were confirmed.

    Returns:
        The model; None where no trial is complete.
    """
    chosen, wanted = write_models(context.data, settings), context.data.spec.confirm
    if chosen is not None and wanted.scores_test and not context.stop.reason:
        score_test(context.data, chosen, wanted.score_again, context.notify)
    if (stored := stored_score(context.data.study)) is not None:
        tested = stored.score
        # On each start, since a driver may have died between asking and recording; the tracker
        # passes over what it has.
        scores = {"war": tested.war, "uar": tested.uar, "wf1": tested.wf1}
        if tested.baseline_uar is not None:
            scores[BASELINE_UAR] = tested.baseline_uar
        context.tracker.log_metrics(
            STUDY_RUN,
            len(tested.again),
            {TEST_PREFIX + name: score for name, score in scores.items()},
        )
    return chosen


def write_result(
    context: RunContext,
    settings: list[Setting],
    chosen: ChosenModel | None,
    outcome: StudyOutcome,
    interruptions: Callable[[int], int],
) -> StudyResult:
    """Write result.json, the report and the table of trials, and log them with the study's run.

    Args:
        context: Context of the study.
        settings: Settings that were confirmed.
        chosen: The model that the study stands for.
        outcome: Outcome of the study.
        interruptions: Number of interruptions of trials.
    """
    data, tracker = context.data, context.tracker
    tracker.drain(_PAGE_S)
    end = StudyEnd(
        state=outcome.state,
        reason=outcome.text,
        baseline=context.baseline_uar,
        study_id=tracker.study_id,
        experiment=EXPERIMENT,
        page=tracker.page,
        interruptions=interruptions,
    )
    result = study_result(data, settings, chosen, end)
    result.save(data.folder)
    write_atomic(data.folder / CONFIG, to_toml(data.spec.lasting_options))
    table = data.folder / "figures" / "trials.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(table, trials_csv(data.study))
    for file in (data.folder / CONFIG, *report.write(data.folder), table):
        tracker.log_artifact(STUDY_RUN, file, "study")
    return result


def promote_model(
    context: RunContext, chosen: ChosenModel | None, outcome: StudyOutcome
) -> Verdict | None:
    """Make the model the champion, if that was asked for and every gate is open.

    Args:
        context: Context of the study.
        chosen: The model that the study stands for.
        outcome: Outcome of the study. One that is not finished promotes nothing.

    Returns:
        The verdict; None where nothing was promoted or refused.
    """
    spec = context.data.spec
    if not spec.confirm.promote:
        return None
    if not outcome.complete or chosen is None:
        context.notify(f"not promoted: the study is not finished ({outcome.text})")
        return None
    options = PromotionOptions(uri=spec.tracking_uri)
    return promote(
        context.data.folder, options, isolated_model=context.isolated_model, log=context.notify
    )


def _share(data: StudyData, folder: Path, stage: str) -> None:
    """On a cluster, put the checkpoints where all nodes see them."""
    shared, home = data.spec.shared, data.study.user_attrs[HOME]
    if shared is not None:
        share_checkpoints(folder, f"{data.study.study_name}-{home['id'][:8]}/{stage}", shared)
