"""Where a trial gets its share of a GPU: a whole one by default, what `--gpus-per-trial 0.25` says,
or with `auto` what the dearest setting of the space needs. Here is `auto`; the other two are in
search/config/spec.py.

A trial asks Ray for its share (search/tune/searcher.py) and its worker is held to as much of the
memory (search/worker/training.py). One that runs out of it continues with twice the share
(search/study/active_trials.py).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import ray
import torch

from fdan.data.store import Store
from fdan.data.task import Task
from fdan.device import CONTEXT_BYTES, choose_device
from fdan.errors import DeviceError
from fdan.files import first_line
from fdan.model.backbones import map_shape
from fdan.run_config import FEATURES, RunConfig
from fdan.training.train import train
from search.config.spec import TrialResources
from search.planning.estimate import make_workload
from search.planning.step_timing import Workload
from search.selection.winner import StudyData
from search.study.stopping import StopSignal
from search.tune.ray_session import connected
from search.tune.tune_run import find_capacity

_POLL_S: Final = 0.5

_USABLE: Final = 0.95
"""The part of a GPU's memory that is shared out. The rest is for fragmentation, and for what a
longer training comes to need."""


def find_gpu_share(data: StudyData, stop: StopSignal) -> float | None:
    """Train the dearest setting for a moment to find the share of a GPU that each trial gets. Waits
    for a GPU where the cluster has none yet; None if `stop` was due before that. DeviceError where
    the setting cannot be trained even alone on a GPU.

    Args:
        data: The study.
        stop: Signal that ends the waiting.
    """
    spec = data.spec
    workload = make_workload(spec, data.task, data.split)
    workload = replace(workload, runs=workload.runs[-1:], device="cuda", gpus=1.0)
    cpus = spec.per_trial.cpus
    with connected(spec.cluster, data.folder):
        find_capacity(TrialResources(cpus, 1.0))  # raises where this machine has no GPU
        remote = ray.remote(num_gpus=1, num_cpus=cpus, max_calls=1)(_measure_memory)
        future = remote.remote(workload)
        while not ray.wait([future], timeout=_POLL_S)[0]:
            if stop.due():
                return None
        try:
            needed, available = ray.get(future)
        except ray.exceptions.RayError as error:
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            raise DeviceError(
                "--gpus-per-trial auto: the dearest setting of the space cannot be trained on a"
                f" GPU of its own: {first_line(cause, 300)}"
            ) from None
        nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive")]
    cpus_of_gpu = [int(node.get("CPU", 0) / node["GPU"]) for node in nodes if node.get("GPU")]
    limit = min(cpus_of_gpu, default=1) // cpus
    others = max(0, len(data.folds) - 1)  # trained beside the one that was measured
    needed += others * max(0, needed - CONTEXT_BYTES)
    return _largest_share(needed + _data_bytes(data.task, workload.runs[0]), available, limit)


def _largest_share(needed: int, available: int, limit: int) -> float:
    """The largest share with which as many trials fit as memory and CPUs have room for: each needs
    `needed` of `available` bytes, and a GPU's CPUs feed `limit` trials."""
    fit = max(1, min(int(_USABLE * available / needed), limit))
    return int(10_000 / fit) / 10_000  # Ray counts in ten thousandths


def _data_bytes(task: Task, settings: Mapping[str, Any]) -> int:
    """Bytes of the study's data, which each trial has on its GPU."""
    stores = [*task.acoustic, *task.visual]
    model = RunConfig.from_mapping(settings).model
    if model.tuning == "full":
        return sum(store.images.nbytes for store in stores)
    if model.tuning == "frozen":
        return 4 * FEATURES[model.backbone] * sum(map(len, stores))

    def values(store: Store) -> int:
        return len(store) * math.prod(map_shape(model.backbone, *store.images.shape[1:3]))

    return 4 * sum(map(values, stores))


def _measure_memory(workload: Workload) -> tuple[int, int]:
    """On a GPU: the bytes that a process takes while it trains, and those that are available."""
    choose_device("cuda")
    # Without what other processes take: the driver, which computed features, has its context.
    available = torch.cuda.mem_get_info()[0] + CONTEXT_BYTES
    run = RunConfig.from_mapping({**workload.runs[0], "epochs": 2})
    train(run, workload.random_data(run), lambda *_: None, device="cuda")
    return torch.cuda.max_memory_reserved() + CONTEXT_BYTES, available
