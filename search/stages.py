"""The two rounds of a study: the search, and the runs that confirm what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from search.callbacks.checkpoint_retention import CheckpointRetention, drop_ended
from search.callbacks.early_stopping import EarlyStopping
from search.callbacks.fail_fast import FailFast
from search.callbacks.mlflow import MlflowCallback, TrialRuns
from search.callbacks.trial_figures import TrialFigures
from search.selection import confirm
from search.selection.winner import Study
from search.study.events import StudyCallback
from search.study.folder import share_checkpoints
from search.study.open import HOME
from search.study.queries import best_trial, count_finished, count_started, running_trials
from search.study.stopping import StopSignal
from search.study.storage_retry import StorageRetry
from search.tune.ray_session import RaySession
from search.tune.recovery import Round, RoundContext, run_round
from search.worker.data import WorkerData
from tracking.tags import CONFIRM
from tracking.tracker import Tracker


@dataclass(frozen=True)
class RunContext:
    """How a study's stages are run and followed."""

    work: WorkerData
    ray: RaySession
    tracker: Tracker
    drawing: TrialFigures
    tags: Mapping[str, Any]
    """Of every run in MLflow."""
    made_from: Mapping[str, Any]
    """Beside each trial's settings there: what it takes to train it again."""
    stop: StopSignal
    patience: StorageRetry
    console: Console

    @property
    def round_context(self) -> RoundContext:
        return RoundContext(self.work, self.ray, self.stop, self.patience, self.console)


def run_search(of: Study, context: RunContext) -> Callable[[int], int]:
    """Run what is left of the search; returns how often each trial was interrupted."""
    spec, opened, folder = of.spec, of.opened, of.folder
    best, name = best_trial(opened), opened.study_name
    _share(of, folder, "search")
    tracked = MlflowCallback(
        context.tracker,
        context.drawing,
        folder,
        TrialRuns(spec.fixed, context.tags, context.made_from),
    )
    trials = opened.get_trials(deepcopy=False)
    tracked.catch_up(trials)
    drop_ended(folder, trials, best)
    held = count_started(name, opened._storage)
    left = max(0, spec.trials - held)
    rules: list[StudyCallback] = [FailFast(context.stop, count_finished(opened))]
    if left and (noise := spec.study.stop_early) is not None:
        rules.append(EarlyStopping.of_study(context.stop, noise, opened, folder))
    if context.stop.final and not running_trials(opened):
        context.console.print(
            f"study {name}: {context.stop.reason}", highlight=False, soft_wrap=True
        )
    elif left or running_trials(opened):
        run_round(
            spec,
            Round(
                study=opened,
                suggest=spec.space.suggest,
                sampler=spec.search.sampler,
                pruner=spec.search.pruner,
                trials=spec.trials,
                new_trials=left,
                folder=folder,
                callbacks=(tracked, CheckpointRetention(folder, best), *rules),
                title=name,
            ),
            context.round_context,
        )
    else:
        context.console.print(
            f"study {name} has {held} trials already: nothing to run ({spec.how_to_extend(held)})",
            highlight=False,
            soft_wrap=True,
        )
    tracked.finish()
    return tracked.interruptions


def run_confirmation(of: Study, context: RunContext) -> list[confirm.Setting]:
    """Run the best settings again, as far as that was asked for and is not done; returns what was
    confirmed so far."""
    spec = of.spec
    nominated = confirm.best(of.opened, spec.confirm.count)
    if not context.stop.due() and nominated:
        opened = confirm.open_confirming(of.opened)
        seeds = confirm.seeds(spec.seed, spec.confirm.seeds)
        queue = confirm.Queue(opened, nominated, seeds)
        folder = confirm.folder_of(of.folder)
        fixed = {name: value for name, value in spec.fixed.items() if name != "seed"}
        runs = TrialRuns(fixed, context.tags, context.made_from, CONFIRM, queue.tags)
        tracked = MlflowCallback(context.tracker, context.drawing, folder, runs)
        tracked.catch_up(opened.get_trials(deepcopy=False), confirm.params)
        if queue.left or running_trials(opened):
            folder.mkdir(exist_ok=True)
            _share(of, folder, CONFIRM)
            context.console.print(
                f"confirming the best {len(nominated)} with {len(seeds)} fresh seeds each",
                highlight=False,
            )
            run_round(
                spec,
                Round(
                    study=opened,
                    suggest=queue.suggest,
                    sampler="",
                    pruner="none",
                    trials=count_started(opened.study_name, opened._storage) + queue.left,
                    new_trials=queue.left,
                    folder=folder,
                    callbacks=(tracked,),
                    title=f"{of.opened.study_name}, confirming",
                    noun="run",
                ),
                context.round_context,
            )
        tracked.finish()
    return confirm.settings(of.opened)


def _share(of: Study, folder: Path, stage: str) -> None:
    """On a cluster, put the checkpoints where all nodes see them."""
    shared, home = of.spec.shared, of.opened.user_attrs[HOME]
    if shared is not None:
        share_checkpoints(folder, f"{of.opened.study_name}-{home['id'][:8]}/{stage}", shared)
