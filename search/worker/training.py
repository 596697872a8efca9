"""Trains an FDAN as a trial inside a worker, from the newest checkpoint on. Every epoch is in the
trial's log before it is reported."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from search.worker.data import WorkerData, load_data
from search.worker.epoch_log import EpochLog, read_epoch_log
from search.worker.messages import EpochResult
from search.worker.trainable import Train, TrialContext
from search.worker.trial_folder import CHECKPOINT

if TYPE_CHECKING:
    from fdan.run_config import RunConfig
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.train import EpochReport

_CHECKPOINT_INTERVAL_S = 2.0
"""Training that may be lost beyond the current epoch: longer epochs are saved at their end."""


class CheckpointTimer:
    """Decides when to save: after the first epoch, then every _CHECKPOINT_INTERVAL_S."""

    def __init__(self) -> None:
        self._saved_at = float("-inf")

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= _CHECKPOINT_INTERVAL_S

    def saved(self) -> None:
        self._saved_at = time.monotonic()


def make_trainer(data: WorkerData) -> Train:
    """Make the function that trains an FDAN."""

    def train_trial(trial: TrialContext, report: Callable[[EpochResult], None]) -> None:
        from fdan.training.train import train

        prepare_process(trial)
        run = data.run_config(trial.params, f"trial {trial.number}")
        folder = trial.folder / CHECKPOINT
        resume, unreported = load_resume_point(trial.folder, trial.start_epoch, run)
        for earlier in unreported:
            report(earlier)
        timer = CheckpointTimer()

        def after_epoch(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
            result = epoch_result(epoch)
            log.append(result)
            if epoch.epoch == run.training.epochs or timer.due:
                log.sync()
                checkpoint().save(folder)
                timer.saved()
            report(result)

        with EpochLog(trial.folder) as log:
            loaded = load_data(data, run, trial.notify)
            train(run, loaded, after_epoch, device=data.device, resume=resume)

    return train_trial


def load_resume_point(
    folder: Path, last_reported: int, run: RunConfig
) -> tuple[Checkpoint | None, list[EpochResult]]:
    """Load the point from which a trial goes on. Reported epochs after the checkpoint are trained
    again.

    Args:
        folder: Folder of the trial.
        last_reported: The last epoch that the driver knows; 0 for none.
        run: Configuration of the trial.

    Returns:
        The checkpoint, None to begin anew, and the unreported epochs up to it.
    """
    from fdan.errors import WeightsError
    from fdan.training.checkpoint import Checkpoint

    try:
        checkpoint = Checkpoint.load(folder / CHECKPOINT)
    except WeightsError:  # none yet, or a torn one
        return None, []
    if {**checkpoint.run.as_dict(), "epochs": 0} != {**run.as_dict(), "epochs": 0}:
        return None, []  # of another configuration
    logged = read_epoch_log(folder)
    unreported = range(last_reported + 1, checkpoint.epoch + 1)
    if any(epoch not in logged for epoch in unreported):
        return None, []
    return checkpoint, [logged[epoch] for epoch in unreported]


def prepare_process(trial: TrialContext) -> None:
    """Give the trial its CPU threads and its share of the GPU's memory in this process."""
    # Imported here, so that a process that only plans imports no torch.
    import torch

    from fdan.device import limit_gpu_memory

    torch.set_num_threads(trial.threads)  # for the calling thread only, so for each trial
    if 0 < trial.gpu_fraction < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        limit_gpu_memory(trial.gpu_fraction)


def epoch_result(epoch: EpochReport) -> EpochResult:
    """The result of an epoch as it is reported to the driver."""
    metrics = {name: float(value) for name, value in epoch.metrics.items()}
    return EpochResult(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist())
