"""Trains FDANs as trials inside a worker, from their newest checkpoints on. Every epoch is in the
trial's log before it is reported. Where the study has folds, a trial trains all of them side by
side, and its epochs and its checkpoint are of all of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from search.worker.data import WorkerData, load_data
from search.worker.messages import EpochResult
from search.worker.trainable import ReportGroup, Train, TrainGroup, TrialContext
from search.worker.trial_folder import CHECKPOINT, EpochLog, read_epoch_log

if TYPE_CHECKING:
    from fdan.run_config import RunConfig
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.folds.checkpoint import FoldsCheckpoint
    from fdan.training.folds.train import FoldsEpoch
    from fdan.training.group import MemberEpoch
    from fdan.training.train import Diverged, EpochReport

T = TypeVar("T")

_CHECKPOINT_INTERVAL_S = 2.0  # training that may be lost beyond the current epoch


def make_trainer(data: WorkerData) -> Train:
    """Make the function that trains an FDAN."""
    train_trials = make_group_trainer(data)

    def train_trial(trial: TrialContext, report: Callable[[EpochResult], None]) -> None:
        train_trials([trial], lambda epochs, _: report(epochs[trial.number]))

    return train_trial


def make_group_trainer(data: WorkerData) -> TrainGroup:
    """Make the function that trains an FDAN, or several with frozen backbones as one."""

    def train_trials(trials: Sequence[TrialContext], report: ReportGroup) -> None:
        from fdan.training.checkpoint import Checkpoint
        from fdan.training.folds.checkpoint import FoldsCheckpoint
        from fdan.training.folds.train import train_folds
        from fdan.training.group import MemberEpoch, train_group
        from fdan.training.train import train

        _prepare_process(max(trials, key=lambda trial: trial.gpu_fraction))
        runs = [data.run_config(trial.params, f"trial {trial.number}") for trial in trials]
        resume: list[Checkpoint | FoldsCheckpoint | None] = []
        for trial, run in zip(trials, runs, strict=True):
            checkpoint, unreported = load_resume_point(trial.folder, trial.start_epoch, run)
            resume.append(checkpoint)
            for result in unreported:
                report({trial.number: result}, {})
        saved_at = -math.inf

        def after_epoch(
            members: Sequence[MemberEpoch] | Sequence[FoldsEpoch], diverged: Mapping[int, Diverged]
        ) -> None:
            nonlocal saved_at
            results = {}
            for index, epoch, _ in members:
                result = results[trials[index].number] = _epoch_result(epoch)
                logs[index].append(result)
            due = time.monotonic() - saved_at >= _CHECKPOINT_INTERVAL_S
            for index, epoch, checkpoint in members:
                if due or epoch.epoch in (trials[index].stop_epoch, runs[index].training.epochs):
                    logs[index].sync()
                    checkpoint().save(trials[index].folder / CHECKPOINT)
            if due:
                saved_at = time.monotonic()
            report(results, {trials[index].number: str(why) for index, why in diverged.items()})

        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(EpochLog(trial.folder)) for trial in trials]
            loaded = load_data(data, runs[0], trials[0].notify)
            until = [trial.stop_epoch for trial in trials]
            if data.split_config.has_folds:
                starts = _of_kind(FoldsCheckpoint, resume)
                train_folds(
                    runs, loaded, after_epoch, device=data.device, resume=starts, until=until
                )
            elif len(trials) == 1:
                train(
                    runs[0],
                    loaded[0],
                    lambda epoch, checkpoint: after_epoch([MemberEpoch(0, epoch, checkpoint)], {}),
                    device=data.device,
                    resume=_of_kind(Checkpoint, resume)[0],
                )
            else:
                train_group(
                    runs,
                    loaded[0],
                    after_epoch,
                    device=data.device,
                    resume=_of_kind(Checkpoint, resume),
                    until=until,
                )

    return train_trials


def load_resume_point(
    folder: Path, last_reported: int, run: RunConfig
) -> tuple[Checkpoint | FoldsCheckpoint | None, list[EpochResult]]:
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
    from fdan.training.folds.checkpoint import load_checkpoint

    try:
        checkpoint = load_checkpoint(folder / CHECKPOINT)
    except WeightsError:  # none yet, or a torn one
        return None, []
    if {**checkpoint.run.as_dict(), "epochs": 0} != {**run.as_dict(), "epochs": 0}:
        return None, []  # of another configuration
    logged = read_epoch_log(folder)
    unreported = range(last_reported + 1, checkpoint.epoch + 1)
    if any(epoch not in logged for epoch in unreported):
        return None, []
    return checkpoint, [logged[epoch] for epoch in unreported]


def _of_kind(kind: type[T], checkpoints: Sequence[object]) -> list[T | None]:
    """Checkpoints, none of which is of another kind: that is for the study's identity to see to."""
    assert all(checkpoint is None or isinstance(checkpoint, kind) for checkpoint in checkpoints)
    return [checkpoint if isinstance(checkpoint, kind) else None for checkpoint in checkpoints]


def _prepare_process(trial: TrialContext) -> None:
    """Give the trial its CPU threads and its share of the GPU's memory in this process."""
    # Imported here, so that a process that only plans imports no torch.
    import torch

    from fdan.device import limit_gpu_memory

    torch.set_num_threads(trial.threads)  # for the calling thread only, so for each trial
    if 0 < trial.gpu_fraction < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        limit_gpu_memory(trial.gpu_fraction)


def _epoch_result(epoch: EpochReport) -> EpochResult:
    metrics = {name: float(value) for name, value in epoch.metrics.items()}
    return EpochResult(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist())
