"""How long training steps take here: real ones, on random images or features of the right sizes,
in as many processes at once as the study will run.

Time does not depend on what an image shows, so nothing has to be prepared and nothing is written.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from fdan.errors import FdanError

if TYPE_CHECKING:
    from fdan.run_config import RunConfig
    from fdan.training.train import EpochReport
    from fdan.training.training_data import TrainingData

_POOL: Final = 256
"""Samples of each modality that there are; longer parts name them again and again."""

_STEPS: Final = {"frozen": 32, "full": 4}
"""Steps of a timed epoch at most; the study's own may have hundreds."""

_VALIDATED: Final = {"frozen": 512, "full": 64}

_ENOUGH_S: Final = 1.5
_EPOCHS: Final = 3
"""Timed epochs, and seconds for them, after a first one that warms up."""

_LONG_S: Final = 10.0
"""Where an epoch is slow, one has to do."""

_FEATURES: Final = 32
"""Images of each modality whose frozen features are timed."""

_READY_S: Final = 120.0
"""How long processes wait for each other to be ready."""


@dataclass(frozen=True)
class Work:
    """What to time: settings of one or several trials and the data that they run on.

    runs: RunConfigs as flat values; shapes: (H, W, C) of each modality's images; sizes: samples of
    visual_train, acoustic_train and acoustic_validation; classes: emotions that occur.
    """

    runs: tuple[Mapping[str, Any], ...]
    shapes: Mapping[str, tuple[int, int, int]]
    sizes: tuple[int, int, int]
    classes: tuple[int, ...]
    device: str
    threads: int
    gpus: float
    """Of one process; less than 1: several share one."""


@dataclass(frozen=True)
class Timing:
    """Seconds. step: a training step; steps: in an epoch; validation: the pass over the validation
    part and the bank, after each epoch."""

    step: float
    steps: int
    validation: float

    @property
    def epoch(self) -> float:
        return self.steps * self.step + self.validation


@dataclass(frozen=True)
class Measured:
    """timings: of each of the runs; start: seconds until a process can train; features: seconds for
    one image of each modality with all cores, where the backbones are frozen."""

    timings: tuple[Timing, ...]
    start: float
    features: Mapping[str, float]


def measure(work: Work, processes: int) -> Measured:
    """Time the runs in several processes at once. Raises FdanError where they cannot run."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _meet, (barrier,)) as pool:
        asked = [pool.submit(_process, work, number, time.time()) for number in range(processes)]
        try:
            found = [one.result() for one in asked]
        except BrokenProcessPool:
            raise FdanError(
                f"--estimate: a process that timed {processes} trials at once died, of too little"
                " memory perhaps: fewer at once with --concurrent"
            ) from None
    return Measured(
        tuple(_mean([one.timings[i] for one in found]) for i in range(len(work.runs))),
        statistics.mean(one.start for one in found),
        found[0].features,
    )


def _mean(timings: Sequence[Timing]) -> Timing:
    return Timing(
        statistics.mean(one.step for one in timings),
        timings[0].steps,
        statistics.mean(one.validation for one in timings),
    )


_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _together() -> None:
    """Wait until all processes have come as far; without those that are too late."""
    with contextlib.suppress(Exception):  # a broken barrier
        _barrier.wait(_READY_S)


def _process(work: Work, number: int, began: float) -> Measured:
    import torch

    import search.worker.trainable  # noqa: F401 (what a worker imports: Ray Tune is in it)
    from fdan.device import choose_device
    from fdan.run_config import RunConfig

    torch.set_num_threads(work.threads)
    device = choose_device(work.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(number * work.gpus) % torch.cuda.device_count())
    runs = [RunConfig.from_mapping(values) for values in work.runs]
    start = time.time() - began
    timings = []
    for run in runs:
        _together()
        timings.append(_time(run, work, device))
    _together()
    frozen = runs[0].model.tuning == "frozen" and number == 0
    features = _time_features(runs[0], work, device) if frozen else {}
    return Measured(tuple(timings), start, features)


class _Timed(Exception):  # noqa: N818
    """Leaves a training that has been timed."""


def _time(run: RunConfig, work: Work, device: Any) -> Timing:
    import torch

    from fdan.training import batches, validate
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.train import train

    data = random_data(run, work)
    wanted = len(batches.batch_sizes(max(2, work.sizes[1]), run.training.batch))
    timed = len(batches.batch_sizes(len(data.acoustic_train), run.training.batch))
    epochs: list[float] = []
    last: list[Checkpoint] = []

    def report(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        epochs.append(epoch.metrics["time/epoch_s"])
        warm = epochs[1:]
        long = len(warm) >= 1 and sum(epochs) > _LONG_S
        if long or (len(warm) >= _EPOCHS and sum(warm) >= _ENOUGH_S):
            last.append(checkpoint())
            raise _Timed

    endless = replace(run, training=replace(run.training, epochs=10**6))
    with contextlib.suppress(_Timed):
        train(endless, data, report, device=device)

    network = validate.restore_network(last[0]).to(device).eval()
    data = data.to(device)
    bank_s = validation_s = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        bank = validate.make_bank(network, run, data)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        bank_s = time.perf_counter() - began
        validate.predict_logits(network, data.acoustic, data.acoustic_validation, bank)
        validation_s = time.perf_counter() - began - bank_s
    step = (statistics.median(epochs[1:]) - bank_s - validation_s) / timed
    scale = work.sizes[2] / len(data.acoustic_validation)
    return Timing(max(0.0, step), wanted, bank_s + validation_s * scale)


def random_data(run: RunConfig, work: Work) -> TrainingData:
    """Random samples of the right sizes, few of them, that stand for all the others."""
    import numpy as np

    from fdan.model.backbones import find_weights
    from fdan.run_config import FEATURES
    from fdan.training.training_data import Domain, TrainingData

    random, frozen = np.random.default_rng(0), run.model.tuning == "frozen"
    labels = np.resize(np.array(work.classes, dtype=np.int64), _POOL)
    domains = {}
    for modality in ("visual", "acoustic"):
        if frozen:
            width = FEATURES[run.model.backbone]
            images: Any = random.random((_POOL, width), dtype=np.float32)
        else:
            images = random.integers(0, 256, (_POOL, *work.shapes[modality]), dtype=np.uint8)
        domains[modality] = Domain.from_arrays([images], labels)

    def part(size: int, most: int) -> Any:
        return np.arange(max(2, min(size, most)), dtype=np.int64) % _POOL

    visual, acoustic, validation = work.sizes
    return TrainingData(
        domains["visual"],
        domains["acoustic"],
        visual_train=part(visual, _POOL),
        acoustic_train=part(acoustic, _STEPS[run.model.tuning] * run.training.batch),
        acoustic_validation=part(validation, _VALIDATED[run.model.tuning]),
        weights=find_weights(run.model.backbone, "none"),
        fingerprint="random",
    )


def _time_features(run: RunConfig, work: Work, device: Any) -> dict[str, float]:
    """Seconds for an image of each modality, with all cores as the driver computes them."""
    import numpy as np
    import torch

    from fdan.cpus import cpu_count
    from fdan.model.backbones import build_backbone, find_weights

    torch.set_num_threads(cpu_count())
    backbone = build_backbone(find_weights(run.model.backbone, "none")).to(device).eval()
    random, found = np.random.default_rng(0), {}
    for modality, shape in work.shapes.items():
        images = random.integers(0, 256, (_FEATURES, *shape), dtype=np.uint8)
        with torch.inference_mode():
            backbone(torch.from_numpy(images[:2]).to(device))  # warms up
            began = time.perf_counter()
            backbone(torch.from_numpy(images).to(device)).cpu()
        found[modality] = (time.perf_counter() - began) / _FEATURES
    return found
