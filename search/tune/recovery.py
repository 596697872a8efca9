"""Runs a round of trials on Ray, and on another Ray when one is lost. For one lost worker,
search/study/active_trials.py decides, and search/study/trial_controller.py tells the callbacks."""

import contextlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from rich.console import Console

from fdan.errors import ConfigError, FdanError
from fdan.machine.cpus import cpu_count
from search.callbacks.progress import Progress
from search.config.spec import StudySpec
from search.optimizer.pruners import decision_epochs, next_rung
from search.optimizer.samplers import N_STARTUP_TRIALS
from search.optimizer.space import Value
from search.study.events import StudyCallback, TrialOutcome
from search.study.resume import resume_trials, unreported_epochs
from search.study.status import best_trial, count_finished
from search.study.stopping import StopSignal
from search.study.trial_controller import TrialController, TrialPolicy
from search.study.writer import StudyWriter
from search.tune.grouping import SingleTrials, TrialGroups, TuneRun
from search.tune.ray_session import ClusterError, RayLostError, RaySession, telling_of_lost_cluster
from search.tune.tune_run import find_capacity, run_trials
from search.worker.data import WorkerData
from search.worker.trainable import node_id
from search.worker.training import make_group_trainer, make_trainer

_MAX_RAY_LOSSES = 3  # Rays lost in a row, without an epoch finished in between, that end the study


@dataclass(frozen=True)
class Round:
    """Trials that run together: those of the search, or the confirming runs."""

    study: optuna.Study
    suggest: Callable[[optuna.Trial], dict[str, Value]]  # the same settings if called again
    sampler: str  # its name; empty where there is none
    pruner: str
    trials: int  # in all, earlier starts included
    new_trials: int  # to be created
    folder: Path  # of their checkpoints
    callbacks: tuple[StudyCallback, ...]
    title: str  # name of the round on the terminal
    noun: str = "trial"  # word for a trial on the terminal
    # Where the trials to be created depend on results: how many they are now.
    recount: Callable[[], int] | None = None


@dataclass(frozen=True)
class RoundContext:
    """What the rounds of a study share."""

    data: WorkerData
    ray: RaySession
    stop: StopSignal
    console: Console


class Recount(StudyCallback):
    """Asks after each trial how many are still to be created."""

    def __init__(
        self, recount: Callable[[], int], controller: TrialController, progress: Progress
    ) -> None:
        """
        Args:
            recount: Function that returns the number of trials to be created.
            controller: Controller that creates them.
            progress: Progress that shows how many there are in all.
        """
        self._recount = recount
        self._controller = controller
        self._progress = progress

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        left = self._recount()
        self._progress.trials += left - self._controller.new_trials_left
        self._controller.new_trials_left = left


def make_ray_session(spec: StudySpec, folder: Path) -> RaySession:
    """Ray for a study's rounds. A local one claims as many CPUs as its trials may use at once, even
    if they then share real ones.

    Args:
        spec: The study.
        folder: Folder of the study.
    """
    requested = (spec.resources.concurrent or 0) * spec.per_trial.cpus
    return RaySession(spec.cluster, folder, max(requested, cpu_count()))


def run_round(spec: StudySpec, trials: Round, context: RoundContext) -> None:
    """Run the unfinished and the new trials of a round. Where the study finishes early its active
    trials end, where it is interrupted they are left to the next driver.

    Args:
        spec: The study.
        trials: The round.
        context: Context that rounds share.
    """
    study, stop = trials.study, context.stop
    best = best_trial(study)
    known = None if best is None or best.value is None else (best.number, best.value)
    with Progress(
        context.console,
        trials.title,
        trials.trials,
        spec.epochs,
        trials.noun,
        count_finished(study),
        known,
    ) as progress:
        controller = TrialController(
            StudyWriter(study, trials.suggest, trials.pruner),
            TrialPolicy(
                spec.epochs, decision_epochs(trials.pruner, spec.epochs), spec.per_trial.gpus
            ),
            trials.new_trials,
            (progress, *trials.callbacks),
            partial(unreported_epochs, context.data, trials.folder),
        )
        if trials.recount is not None:  # before the progress shows how many there are
            recount = Recount(trials.recount, controller, progress)
            controller.callbacks = (recount, *controller.callbacks)
        try:
            resume_trials(controller, trials.folder, trials.noun, progress.say)
            recorded, losses = 0, 0
            while controller.new_trials_left or controller.queue:
                try:
                    _run_on_ray(spec, trials, context, controller, progress)
                    break
                except RayLostError as error:
                    losses = losses + 1 if controller.epochs_recorded == recorded else 1
                    recorded = controller.epochs_recorded
                    if stop.due():
                        break
                    if losses == _MAX_RAY_LOSSES:
                        raise ClusterError(
                            f"{error}, {losses} times in a row (see {context.ray.log}): nothing"
                            " is lost, the same command continues the study"
                        ) from None
                    progress.say(f"{error}: another Ray is started")
                    controller.all_workers_lost(str(error))
        except BaseException as error:
            reason = stop.reason or " ".join(str(error).split()) or type(error).__name__
            with contextlib.suppress(FdanError):  # a full disk, say, must not hide the cause
                controller.pause_all(reason)
            raise
        if stop.final:
            controller.stop_all(stop.reason)
        else:
            controller.pause_all(stop.reason)


def _run_on_ray(
    spec: StudySpec,
    trials: Round,
    context: RoundContext,
    controller: TrialController,
    progress: Progress,
) -> None:
    """Run trials until none is left or Ray is lost. A round that breaks off stops Ray as well."""
    requested, group = spec.resources.concurrent, spec.resources.group
    with contextlib.ExitStack() as broken_off:
        broken_off.callback(context.ray.stop)
        context.ray.start()

        def on_change(max_concurrent: int) -> None:
            progress.at_once = max_concurrent * group

        capacity = find_capacity(spec.per_trial, requested, progress.say, on_change)
        to_run = controller.new_trials_left + len(controller.queue)
        progress.at_once = min(capacity.max_concurrent * group, to_run)
        progress.note(f"{progress.at_once} {progress.noun}s at once; the first ones are starting")
        if progress.at_once > N_STARTUP_TRIALS and trials.sampler in ("tpe", "gp"):
            progress.say(
                f"{progress.at_once} trials at once: as many are drawn at random before"
                f" {trials.sampler} has results to learn from"
            )
        data = replace(context.data, home=node_id())
        settings = TuneRun(
            trials.folder,
            capacity,
            context.stop,
            spec.resources.epoch_timeout,
            progress.say,
            _grouping(spec, trials.pruner, data, progress.say),
        )
        with telling_of_lost_cluster(spec.cluster, spec.cluster_named):
            run_trials(controller, make_trainer(data), settings)
        progress.note("")
        if not context.stop.reason:
            broken_off.pop_all()


def _grouping(
    spec: StudySpec, pruner: str, data: WorkerData, notify: Callable[[str], None]
) -> SingleTrials:
    if spec.resources.group == 1:
        return SingleTrials()
    from fdan.training.group import group_key

    def kind(params: Mapping[str, Value]) -> Hashable | None:
        try:
            return group_key(data.run_config(params, "a trial"))
        except ConfigError:  # its worker will raise it again, and the trial fail with that
            return None

    rung = partial(next_rung, pruner, spec.epochs)
    return TrialGroups(spec.resources.group, kind, rung, make_group_trainer(data), notify)
