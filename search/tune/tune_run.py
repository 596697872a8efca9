"""Running a study's trials on the Ray that is up, until they are done."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from fdan.errors import DeviceError, FdanError
from search.config.spec import TrialResources
from search.study.folder import folder_for_workers
from search.study.stopping import StopSignal
from search.study.trial_controller import Bridge
from search.tune.capacity import Capacity
from search.tune.grouping import Groups
from search.tune.ray_session import ClusterError, check_ray_alive, owns_ray
from search.tune.resources import TURNS, placement_group
from search.tune.scheduler import OptunaScheduler
from search.tune.searcher import OptunaSearcher, Stopped, leaving
from search.tune.stall_watchdog import StallWatchdog
from search.worker import trainable as trial
from search.worker.trial_folder import TRIALS


def find_capacity(
    each: TrialResources,
    wanted: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    changed: Callable[[int], None] = lambda _: None,
) -> Capacity:
    """How many trials fit the cluster that is up.

    A Ray of our own stays as it is: raises ClusterError where not even one trial fits it,
    DeviceError where it is the GPU that is missing. Into a cluster, nodes may still come.
    """
    alone = owns_ray()
    if alone:
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
        if each.gpus > gpus:
            raise DeviceError(
                f"--gpus-per-trial {each.gpus:g}: Ray sees {gpus:g} GPUs; use --gpus-per-trial 0"
            )
        if each.cpus > cpus:
            raise ClusterError(f"--cpus-per-trial {each.cpus}: Ray sees {cpus:g} CPUs")
    return Capacity(
        each, ray.nodes, requested=wanted, grows=not alone, notify=say, on_change=changed
    )


def run(
    bridge: Bridge,
    train: trial.Trainable,
    *,
    capacity: Capacity,
    epoch_timeout: float,
    folder: Path,
    stop: StopSignal,
    say: Callable[[str], None] = lambda _: None,
    together: trial.Together | None = None,
    groups: Groups | None = None,
) -> None:
    """Run the bridge's trials, those that wait and new ones, on the cluster that is up.

    Returns when they are done or `stop` is due. Trials that are under way then stay in the bridge.
    capacity: how many at once; epoch_timeout: seconds of silence after which a trial's worker is
    killed; say: is told what workers say of their nodes; together: trains the trials that `groups`
    puts together. Raises RayLost.
    """
    tune_folder = folder / "tune"
    shutil.rmtree(tune_folder, ignore_errors=True)
    (folder / TRIALS).mkdir(exist_ok=True)
    ours = owns_ray()
    worker = trial.function(
        train,
        folder_for_workers(folder),
        max(1, capacity.resources.cpus),
        "" if ours else trial.node(),
        together,
    )
    groups = groups or Groups()

    def due() -> bool:
        with leaving():
            check_ray_alive()
        if not stop.due() and not ours:
            capacity.update()
        return bool(stop.reason)

    try:
        tune.Tuner(
            tune.with_resources(worker, placement_group),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearcher(bridge, capacity, groups),
                scheduler=OptunaScheduler(
                    bridge, due, StallWatchdog(epoch_timeout), capacity, groups, say
                ),
                num_samples=-1,  # the searcher knows when there are no more
                reuse_actors=True,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(tune_folder.absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            ),
        ).fit()
    except Stopped as stopped:
        if isinstance(stopped.__cause__, FdanError):
            raise stopped.__cause__ from None
    except KeyboardInterrupt:
        stop.request("stopped by the user", 130)
    finally:
        shutil.rmtree(tune_folder, ignore_errors=True)


def _folder_name(tune_trial: Any) -> str:
    """Tune would put the settings in it, and a process id that says nothing."""
    return f"{tune_trial.config[TURNS][0].number:04d}"
