"""`--gpus-per-trial auto`: how many trials fit on a GPU, found out by a short training of the
dearest setting on one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ray

from fdan.data.split import Split
from fdan.data.task import Task
from fdan.errors import DeviceError
from fdan.files import first_line
from fdan.run_config import FEATURES, RunConfig
from search.config.spec import StudySpec, TrialResources
from search.planning import estimate
from search.planning.step_timing import Work, random_data
from search.study.stopping import StopSignal
from search.tune import tune_run as driver
from search.tune.ray_session import connected

if TYPE_CHECKING:
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.train import EpochReport

_EVERY_S: Final = 0.5

_SPARE: Final = 0.95
"""Of a GPU's memory; what fragments, and what a longer training comes to need, has the rest."""


def find(spec: StudySpec, task: Task, parts: Split, folder: Path, stop: StopSignal) -> float | None:
    """The share of a GPU that each trial gets. folder: for Ray's log. Waits for a GPU where the
    cluster has none yet; None if `stop` is due before one is known. Raises DeviceError where the
    dearest setting cannot be trained even alone on a GPU."""
    dear = estimate.corners(spec)[-1]
    run = {**spec.fixed, **dear}
    work = replace(estimate.work(spec, task, parts, (run,)), device="cuda", gpus=1.0)
    with connected(spec.cluster, folder):
        # Raises where this machine cannot.
        driver.find_capacity(TrialResources(spec.per_trial.cpus, 1.0))
        probe = ray.remote(num_gpus=1, num_cpus=spec.per_trial.cpus, max_calls=1)(_needed)
        asked = probe.remote(work)
        while not ray.wait([asked], timeout=_EVERY_S)[0]:
            if stop.due():
                return None
        needed, whole = _answer(asked)
        nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive")]
    cpus = [int(held.get("CPU", 0) / held["GPU"]) for held in nodes if held.get("GPU")]
    fed = min(cpus, default=1) // spec.per_trial.cpus
    return share(needed + _resident(task, run), whole, fed)


def _answer(asked: ray.ObjectRef[tuple[int, int]]) -> tuple[int, int]:
    try:
        found: tuple[int, int] = ray.get(asked)
        return found
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        raise DeviceError(
            "--gpus-per-trial auto: the dearest setting of the space cannot be trained on a GPU of"
            f" its own: {first_line(cause, 300)}"
        ) from None


def share(needed: int, whole: int, most: int) -> float:
    """The largest share that fits as many trials as memory and CPUs have room for.

    needed: bytes of one trial; whole: of the GPU, as far as they are free; most: trials that its
    CPUs can feed.

    >>> share(10, 100, 16), share(10, 100, 4), share(60, 100, 16)
    (0.1111, 0.25, 1.0)
    """
    fit = max(1, min(int(_SPARE * whole / needed), most))
    return int(10_000 / fit) / 10_000  # Ray counts in ten thousandths


def _resident(task: Task, run: dict[str, Any]) -> int:
    """Bytes of the study's data, which each trial has on its GPU."""
    stores = [*task.acoustic, *task.visual]
    config = RunConfig.from_mapping(run)
    if config.model.tuning == "frozen":
        return 4 * FEATURES[config.model.backbone] * sum(map(len, stores))
    return sum(store.images.nbytes for store in stores)


def _needed(work: Work) -> tuple[int, int]:
    """On a GPU: bytes that a process takes while it trains this, and those that are to be had."""
    import torch

    from fdan.device import CONTEXT_BYTES, choose_device
    from fdan.training.train import train

    class Enough(Exception):  # noqa: N818
        pass

    def report(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        if epoch.epoch == 2:
            raise Enough

    choose_device("cuda")
    # Without what others hold there: the driver, which computed features, has its context.
    whole = torch.cuda.mem_get_info()[0] + CONTEXT_BYTES
    run = RunConfig.from_mapping(work.runs[0])
    endless = replace(run, training=replace(run.training, epochs=10**6))
    with contextlib.suppress(Enough):
        train(endless, random_data(run, work), report, device="cuda")
    return torch.cuda.max_memory_reserved() + CONTEXT_BYTES, whole
