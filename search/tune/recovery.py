"""Running an open study's trials, on one Ray or, where that breaks down, on several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from fdan.errors import ConfigError, FdanError
from search.callbacks.progress import Progress, ProgressState
from search.config.spec import StudySpec
from search.optimizer.pruners import next_rung
from search.optimizer.samplers import N_STARTUP_TRIALS
from search.optimizer.space import Value
from search.study.events import StudyCallback
from search.study.queries import best_trial, count_finished, running_trials
from search.study.resume import unreported_epochs
from search.study.stopping import StopSignal
from search.study.storage_retry import StorageRetry
from search.study.trial_controller import Bridge
from search.tune import tune_run as driver
from search.tune.grouping import Groups
from search.tune.ray_session import ClusterError, RayLostError, RaySession, local_cpus
from search.worker import trainable as trial
from search.worker.data import WorkerData
from search.worker.epoch_log import read_epoch_log
from search.worker.training import make_group_trainer, make_trainer
from search.worker.trial_folder import trial_folder

_RAY_LOST = 3
"""So many Rays in a row that break down before any trial has finished an epoch end the study."""


@dataclass(frozen=True)
class Round:
    """Trials that are run together: those of the search, or those that confirm what it found."""

    opened: optuna.Study
    suggest: Callable[[optuna.Trial], dict[str, Value]]
    """A trial's settings; the same ones when asked again."""
    sampler: str
    """What proposes them; empty where nothing does."""
    pruner: str
    trials: int
    """In all, those of earlier starts included."""
    left: int
    """New ones to ask for."""
    folder: Path
    """Where their checkpoints are."""
    callbacks: tuple[StudyCallback, ...]
    noun: str = "trial"
    """What the terminal calls one of them."""


def ray_for(spec: StudySpec, folder: Path) -> RaySession:
    """Ray for a study's rounds. folder: the study's."""
    wanted = spec.resources.concurrent
    cpus = None if wanted is None else local_cpus(wanted * spec.per_trial.cpus)
    return RaySession(spec.cluster, folder, cpus)


def run(
    spec: StudySpec,
    of: Round,
    work: WorkerData,
    standing: RaySession,
    stop: StopSignal,
    patience: StorageRetry,
    name: str,
    console: Console,
) -> None:
    """Run the trials of a round that are under way, and the new ones. name: what the terminal calls
    it."""
    opened = of.opened
    best = best_trial(opened)
    known = None if best is None or best.value is None else (best.number, best.value)
    state = ProgressState(name, of.trials, spec.epochs, 1, of.noun, count_finished(opened), known)
    with Progress(state, console) as progress:
        bridge = Bridge(
            opened,
            of.suggest,
            pruner=of.pruner,
            epochs=spec.epochs,
            trials=of.left,
            patience=patience,
            callbacks=(progress, *of.callbacks),
            gpus=spec.per_trial.gpus,
            untold=partial(unreported_epochs, work, of.folder),
        )
        with _settling(bridge, stop):
            _take_up(bridge, running_trials(opened), of.folder, progress, of.noun)
            heard, lost = 0, 0
            while bridge.left or bridge.waiting:
                try:
                    _on_ray(spec, bridge, of, work, standing, stop, state, progress)
                    return
                except RayLostError as error:
                    lost = lost + 1 if bridge.epochs_heard == heard else 1
                    heard = bridge.epochs_heard
                    if stop.due():
                        return
                    if lost == _RAY_LOST:
                        raise ClusterError(
                            f"{error}, {lost} times in a row (see {standing.log}): nothing"
                            " is lost, the same command continues the study"
                        ) from None
                    progress.say(f"{error}: another Ray is started")
                    bridge.all_lost(str(error))


def _take_up(
    bridge: Bridge, resting: Sequence[FrozenTrial], folder: Path, progress: Progress, noun: str
) -> None:
    """Go on with what the last driver left."""
    if resting:
        numbers = ", ".join(str(one.number) for one in resting)
        progress.say(f"going on with the {noun}s that were under way: {numbers}")
    for one in resting:
        bridge.take_up(one, read_epoch_log(trial_folder(folder, one.number)))


def _on_ray(
    spec: StudySpec,
    bridge: Bridge,
    of: Round,
    work: WorkerData,
    standing: RaySession,
    stop: StopSignal,
    state: ProgressState,
    progress: Progress,
) -> None:
    """On Ray, for as long as it lives or there are trials. A round that breaks off takes Ray with
    it, and with Ray what is under way."""
    wanted, group = spec.resources.concurrent, spec.resources.group
    with contextlib.ExitStack() as broken_off:
        broken_off.callback(standing.stop)
        standing.start()

        def changed(at_once: int) -> None:
            state.at_once = at_once * group

        capacity = driver.find_capacity(spec.per_trial, wanted, progress.say, changed)
        state.at_once = min(capacity.max_concurrent * group, bridge.left + bridge.waiting)
        progress.note(f"{state.at_once} {state.noun}s at once; the first ones are starting")
        if state.at_once > N_STARTUP_TRIALS and of.sampler in ("tpe", "gp"):
            progress.say(
                f"{state.at_once} trials at once: as many are drawn at random before"
                f" {of.sampler} has results to learn from"
            )
        here = replace(work, home=trial.node())
        driver.run(
            bridge,
            make_trainer(here),
            capacity=capacity,
            epoch_timeout=spec.resources.epoch_timeout,
            folder=of.folder,
            stop=stop,
            say=progress.say,
            together=make_group_trainer(here),
            groups=_groups(spec, of),
        )
        progress.note("")
        if not stop.reason:
            broken_off.pop_all()


def _groups(spec: StudySpec, of: Round) -> Groups:
    if spec.resources.group == 1:
        return Groups()
    from fdan.run_config import RunConfig
    from fdan.training.group import group_key

    def kind_of(params: Mapping[str, Value]) -> Hashable | None:
        try:
            return group_key(RunConfig.from_mapping({**spec.fixed, **params}))
        except ConfigError:  # its worker will say so, and the trial be closed with that
            return None

    return Groups(
        spec.resources.group,
        kind_of,
        partial(next_rung, of.pruner, spec.epochs),
    )


@contextlib.contextmanager
def _settling(bridge: Bridge, stop: StopSignal) -> Iterator[None]:
    """Whatever ends the search: a time budget that is spent ends the trials under way, anything
    else leaves them to the next driver."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(FdanError):  # a full disk, say, must not hide the cause
            bridge.pause_all(stop.reason or " ".join(str(error).split()) or type(error).__name__)
        raise
    if stop.final:
        bridge.stop_all(stop.reason)
    else:
        bridge.pause_all(stop.reason)
