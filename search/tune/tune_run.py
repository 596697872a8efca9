"""Running a study's trials on the Ray that is up, until they are done."""

import shutil
from collections.abc import Callable

import ray
from ray import tune

from fdan.errors import DeviceError, FdanError
from search.config.spec import TrialResources
from search.study.folder import folder_for_workers
from search.study.trial_controller import TrialController
from search.tune.capacity import Capacity
from search.tune.grouping import TuneRun
from search.tune.ray_session import ClusterError, owns_ray
from search.tune.resources import placement_group
from search.tune.scheduler import OptunaScheduler
from search.tune.searcher import OptunaSearcher, StopTune
from search.worker.messages import ASSIGNMENTS
from search.worker.trainable import Train, WorkerSetup, make_trainable, node_id
from search.worker.trial_folder import TRIALS


def find_capacity(
    each: TrialResources,
    requested: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
    on_change: Callable[[int], None] = lambda _: None,
) -> Capacity:
    """How many trials fit the cluster that is up. A Ray of our own stays as it is; into a cluster,
    nodes may still come.

    Args:
        each: Resources of one trial.
        requested: Trials at once; None for as many as fit.
        notify: Function that shows the user a line.
        on_change: Function that is called with the new number of trials at once.

    Raises:
        ClusterError: Not even one trial fits a Ray of our own.
        DeviceError: It is the GPU that is missing.
    """
    own = owns_ray()
    if own:
        available = ray.cluster_resources()
        cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
        if each.gpus > gpus:
            raise DeviceError(
                f"--gpus-per-trial {each.gpus:g}: Ray sees {gpus:g} GPUs; use --gpus-per-trial 0"
            )
        if each.cpus > cpus:
            raise ClusterError(f"--cpus-per-trial {each.cpus}: Ray sees {cpus:g} CPUs")
    return Capacity(
        each, ray.nodes, requested=requested, grows=not own, notify=notify, on_change=on_change
    )


def run_trials(controller: TrialController, train: Train, settings: TuneRun) -> None:
    """Run the controller's trials, those that wait and new ones, on the cluster that is up, until
    they are done or the stop is due. Trials that are under way then stay in the controller.

    Args:
        controller: Controller of the study.
        train: Function that trains a trial in a worker.
        settings: Settings of the Tune run.

    Raises:
        RayLostError: The Ray that was started here has lost one of its processes.
    """
    tune_folder = settings.folder / "tune"
    shutil.rmtree(tune_folder, ignore_errors=True)
    (settings.folder / TRIALS).mkdir(exist_ok=True)
    capacity, grouping = settings.capacity, settings.grouping
    setup = WorkerSetup(
        folder_for_workers(settings.folder),
        max(1, capacity.resources.cpus),
        "" if owns_ray() else node_id(),
    )
    trainable = make_trainable(train, setup, grouping.train_group)
    try:
        tune.Tuner(
            tune.with_resources(trainable, placement_group),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearcher(controller, capacity, grouping),
                scheduler=OptunaScheduler(controller, settings),
                num_samples=-1,  # the searcher knows when there are no more
                reuse_actors=True,
                # Tune's own name has the settings in it, and a process id that says nothing.
                trial_dirname_creator=lambda trial: f"{trial.config[ASSIGNMENTS][0].number:04d}",
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(tune_folder.absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            ),
        ).fit()
    except StopTune as stopped:
        if isinstance(stopped.__cause__, FdanError):
            raise stopped.__cause__ from None
    except KeyboardInterrupt:
        settings.stop.request("stopped by the user", 130)
    finally:
        shutil.rmtree(tune_folder, ignore_errors=True)
