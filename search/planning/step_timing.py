"""How long training steps take on this machine, with as many processes at once as a study runs.

Real steps train on random images, maps or features of the right sizes: time does not depend on what
an image shows, so no data is prepared and nothing is written.
"""

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import numpy as np
import torch

from fdan.device import choose_device
from fdan.emotions import MODALITIES
from fdan.errors import FdanError
from fdan.machine.child_process import isolated_children
from fdan.machine.cpus import cpu_count
from fdan.model.backbones import build_backbone, find_weights, map_shape
from fdan.run_config import FEATURES, RunConfig
from fdan.training import validate
from fdan.training.batches import batch_sizes
from fdan.training.checkpoint import Checkpoint
from fdan.training.train import EpochReport, train
from fdan.training.training_data import Domain, TrainingData

_POOL: Final = 256  # random samples of each modality; longer parts repeat them

_MOST: Final = {"frozen": (32, 512), "last": (8, 128), "full": (4, 64)}
"""Steps, and validated samples, of a timed epoch; an epoch of the study may have hundreds."""

# Epochs to time, and seconds that they take together at least, after one that warms up.
_MIN_EPOCHS: Final = 3
_MIN_EPOCHS_S: Final = 1.5

_MAX_EPOCHS_S: Final = 10.0  # where epochs are slower than that, a single one is timed
_FEATURES: Final = 32  # images of each modality whose frozen features or maps are timed
_BARRIER_S: Final = 120.0  # how long processes wait for each other


@dataclass(frozen=True)
class Workload:
    """What to time: the settings of one or several trials, and the sizes of their data."""

    runs: tuple[Mapping[str, Any], ...]  # RunConfigs as flat values
    shapes: Mapping[str, tuple[int, int, int]]  # (height, width, channels) of a modality's images
    sizes: tuple[int, int, int]  # samples of visual_train, acoustic_train, acoustic_validation
    classes: tuple[int, ...]  # emotions that occur
    device: str
    threads: int
    gpus: float  # of one process; with less than 1, several processes share one

    def random_data(self, run: RunConfig) -> TrainingData:
        """A few random samples, repeated, for a run to train on."""
        random, model = np.random.default_rng(0), run.model
        labels = np.resize(np.array(self.classes, dtype=np.int64), _POOL)
        domains = {}
        for modality in MODALITIES:
            shape = self.shapes[modality]
            if model.tuning == "full":
                images: Any = random.integers(0, 256, (_POOL, *shape), dtype=np.uint8)
            else:
                frozen = (FEATURES[model.backbone],)
                size = frozen if model.tuning == "frozen" else map_shape(model.backbone, *shape[:2])
                images = random.random((_POOL, *size), dtype=np.float32)
            domains[modality] = Domain.from_arrays([images], labels)
        most_steps, most_validated = _MOST[model.tuning]
        limits = (_POOL, most_steps * run.training.batch, most_validated)
        visual, acoustic, validation = (
            np.arange(max(2, min(size, limit)), dtype=np.int64) % _POOL
            for size, limit in zip(self.sizes, limits, strict=True)
        )
        return TrainingData(
            domains["visual"],
            domains["acoustic"],
            visual_train=visual,
            acoustic_train=acoustic,
            acoustic_validation=validation,
            weights=find_weights(model.backbone, "none"),
            fingerprint="random",
        )


@dataclass(frozen=True)
class RunTiming:
    """Seconds of one run."""

    step: float
    steps: int  # in an epoch
    validation: float  # the bank and the pass over the validation part, after each epoch

    @property
    def epoch(self) -> float:
        return self.steps * self.step + self.validation


@dataclass(frozen=True)
class Timings:
    """Seconds of a workload."""

    runs: tuple[RunTiming, ...]
    start: float  # until a process can train
    features: Mapping[str, float]
    """What frozen stages take for one image of each modality, on all cores; empty where whole
    backbones are trained."""


def measure(workload: Workload, processes: int) -> Timings:
    """Time each run in several processes at once; the means over them. FdanError where the runs
    cannot be trained here.

    Args:
        workload: Training to time.
        processes: Number of processes that train the same run.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    pool = ProcessPoolExecutor(processes, context, _set_barrier, (barrier,))
    with isolated_children(), pool:
        futures = [pool.submit(_measure, workload, i, time.time()) for i in range(processes)]
        try:
            results = [future.result() for future in futures]
        except BrokenProcessPool:
            raise FdanError(
                f"--estimate: a process that timed {processes} trials at once died, of too little"
                " memory perhaps: fewer at once with --concurrent"
            ) from None
    means = np.mean([[(t.step, t.validation) for t in r.runs] for r in results], axis=0)
    runs = tuple(
        RunTiming(float(step), timing.steps, float(validation))
        for timing, (step, validation) in zip(results[0].runs, means, strict=True)
    )
    start = statistics.mean(result.start for result in results)
    return Timings(runs, start, results[0].features)


_barrier: Barrier


def _set_barrier(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _wait_for_others() -> None:
    with contextlib.suppress(Exception):  # a broken barrier: some process is too late
        _barrier.wait(_BARRIER_S)


def _measure(workload: Workload, process: int, submitted: float) -> Timings:
    import search.worker.trainable  # noqa: F401 (what a worker imports: Ray Tune is in it)

    torch.set_num_threads(workload.threads)
    device = choose_device(workload.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(process * workload.gpus) % torch.cuda.device_count())
    runs = [RunConfig.from_mapping(values) for values in workload.runs]
    start = time.time() - submitted
    timings = []
    for run in runs:
        _wait_for_others()
        timings.append(_time_run(run, workload, device))
    _wait_for_others()
    features = {}
    if runs[0].model.tuning != "full" and process == 0:
        features = _time_features(runs[0], workload, device)
    return Timings(tuple(timings), start, features)


def _time_run(run: RunConfig, workload: Workload, device: torch.device) -> RunTiming:
    class Done(Exception):  # noqa: N818
        pass

    data = workload.random_data(run)
    epochs: list[float] = []
    last: list[Checkpoint] = []

    def report(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        epochs.append(epoch.metrics["time/epoch_s"])
        slow = len(epochs) > 1 and sum(epochs) > _MAX_EPOCHS_S
        if slow or (len(epochs) > _MIN_EPOCHS and sum(epochs[1:]) >= _MIN_EPOCHS_S):
            last.append(checkpoint())
            raise Done

    endless = replace(run, training=replace(run.training, epochs=10**6))
    with contextlib.suppress(Done):
        train(endless, data, report, device=device)

    network = validate.restore_network(last[0]).to(device).eval()
    data = data.to(device)
    bank_s = validation_s = 0.0
    for _ in range(2):  # the first one warms up
        start = time.perf_counter()
        bank = validate.make_bank(network, run, data)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        bank_s = time.perf_counter() - start
        validate.predict_logits(network, data.acoustic, data.acoustic_validation, bank)
        validation_s = time.perf_counter() - start - bank_s
    timed_steps = len(batch_sizes(len(data.acoustic_train), run.training.batch))
    step = (statistics.median(epochs[1:]) - bank_s - validation_s) / timed_steps
    scale = workload.sizes[2] / len(data.acoustic_validation)
    steps = len(batch_sizes(max(2, workload.sizes[1]), run.training.batch))
    return RunTiming(max(0.0, step), steps, bank_s + validation_s * scale)


def _time_features(run: RunConfig, workload: Workload, device: torch.device) -> dict[str, float]:
    """Seconds for an image of each modality, with all cores as the driver computes them."""
    torch.set_num_threads(cpu_count())
    backbone = build_backbone(find_weights(run.model.backbone, "none")).to(device).eval()
    compute = backbone if run.model.tuning == "frozen" else backbone.maps
    random, seconds = np.random.default_rng(0), {}
    for modality, shape in workload.shapes.items():
        images = random.integers(0, 256, (_FEATURES, *shape), dtype=np.uint8)
        with torch.inference_mode():
            compute(torch.from_numpy(images[:2]).to(device))  # warms up
            start = time.perf_counter()
            compute(torch.from_numpy(images).to(device)).cpu()
        seconds[modality] = (time.perf_counter() - start) / _FEATURES
    return seconds
