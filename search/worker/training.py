"""Training an FDAN as a trial, or several as a group, inside a worker: from the newest checkpoint
on, with every epoch in the trial's log before it is reported."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search.worker.data import WorkerData, load_data
from search.worker.epoch_log import EpochLog, read_epoch_log
from search.worker.messages import Report
from search.worker.trainable import Assignment, Tell, Together, Trainable
from search.worker.trial_folder import CHECKPOINT

if TYPE_CHECKING:
    from fdan.run_config import RunConfig
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.group import MemberEpoch
    from fdan.training.train import Diverged, EpochReport

_CHECKPOINT_INTERVAL_S = 2.0
"""Training that may be lost beyond the epoch under way: an epoch this long is saved at its end."""


class _CheckpointTimer:
    """When a checkpoint is due: after the first epoch, then every _CHECKPOINT_INTERVAL_S."""

    def __init__(self) -> None:
        self._saved_at = float("-inf")

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= _CHECKPOINT_INTERVAL_S

    def saved(self) -> None:
        self._saved_at = time.monotonic()


def make_trainer(data: WorkerData) -> Trainable:
    """The Trainable that trains an FDAN."""

    def train_trial(assignment: Assignment, report: Callable[[Report], None]) -> None:
        from fdan.training.train import train

        _prepare_process(assignment)
        run = _run_config(data, assignment)
        folder = assignment.folder / CHECKPOINT
        resume, unreported = load_resume_point(assignment.folder, assignment.after, run)
        for earlier in unreported:
            report(earlier)
        timer = _CheckpointTimer()

        def after_epoch(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
            message = _report(epoch)
            log.append(message)
            if epoch.epoch == run.training.epochs or timer.due:
                log.sync()
                checkpoint().save(folder)
                timer.saved()
            report(message)

        with EpochLog(assignment.folder) as log:
            loaded = load_data(data, run, assignment.say)
            train(run, loaded, after_epoch, device=data.device, resume=resume)

    return train_trial


def make_group_trainer(data: WorkerData) -> Together:
    """Trains several trials with frozen backbones as one."""

    def train_trials(assignments: Sequence[Assignment], tell: Tell) -> None:
        from fdan.training.group import train_group

        _prepare_process(assignments[0])
        runs = [_run_config(data, assignment) for assignment in assignments]
        resume = []
        for assignment, run in zip(assignments, runs, strict=True):
            checkpoint, unreported = load_resume_point(assignment.folder, assignment.after, run)
            resume.append(checkpoint)
            for earlier in unreported:
                tell({assignment.number: earlier}, {})
        timer = _CheckpointTimer()

        def after_epoch(members: Sequence[MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
            reports = {}
            for member in members:
                message = _report(member.epoch)
                logs[member.run].append(message)
                reports[assignments[member.run].number] = message
            due = timer.due
            for member in members:
                assignment = assignments[member.run]
                if due or member.epoch.epoch == assignment.until:
                    logs[member.run].sync()
                    member.checkpoint().save(assignment.folder / CHECKPOINT)
            if due:
                timer.saved()
            tell(reports, {assignments[place].number: str(why) for place, why in diverged.items()})

        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(EpochLog(one.folder)) for one in assignments]
            train_group(
                runs,
                load_data(data, runs[0], assignments[0].say),
                after_epoch,
                device=data.device,
                resume=resume,
                until=[assignment.until for assignment in assignments],
            )

    return train_trials


def load_resume_point(
    folder: Path, last_reported: int, run: RunConfig
) -> tuple[Checkpoint | None, list[Report]]:
    """From where a trial goes on. Epochs that were reported and lie after the checkpoint are
    trained again.

    Args:
        folder: The trial's.
        last_reported: The last epoch that the driver knows; 0 for none.
        run: The trial's configuration.

    Returns:
        The checkpoint, None to begin anew, and the epochs up to it that were never reported.
    """
    from fdan.errors import WeightsError
    from fdan.training.checkpoint import Checkpoint

    try:
        checkpoint = Checkpoint.load(folder / CHECKPOINT)
    except WeightsError:  # none yet, or a torn one
        return None, []
    if {**checkpoint.run.as_dict(), "epochs": 0} != {**run.as_dict(), "epochs": 0}:
        return None, []  # whatever it is doing in this folder
    logged = read_epoch_log(folder)
    unreported = range(last_reported + 1, checkpoint.epoch + 1)
    if any(epoch not in logged for epoch in unreported):
        return None, []
    return checkpoint, [logged[epoch] for epoch in unreported]


def _prepare_process(assignment: Assignment) -> None:
    # Here, so that a process that only plans imports no torch.
    import torch

    from fdan.device import limit_gpu_memory

    torch.set_num_threads(assignment.threads)  # holds for the calling thread, so for each trial
    if 0 < assignment.gpus < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        limit_gpu_memory(assignment.gpus)


def _run_config(data: WorkerData, assignment: Assignment) -> RunConfig:
    return data.run_config(assignment.params, f"trial {assignment.number}")


def _report(epoch: EpochReport) -> Report:
    metrics = {name: float(value) for name, value in epoch.metrics.items()}
    return Report(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist())
