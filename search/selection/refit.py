"""Trains the model that a study with folds stands for: on all speakers outside the test part, with
the settings and for the epochs of the trial, or confirming run, that won."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fdan.device import choose_device
from fdan.errors import ConfigError, DeviceError, WeightsError
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds.checkpoint import FoldsCheckpoint
from fdan.training.train import EpochReport, train
from search.worker.trial_folder import CHECKPOINT

if TYPE_CHECKING:
    from search.selection.winner import StudyData

REFIT: Final = "refit"
"""In a study's folder: the final models' own folders, with what their training goes on from."""

_CHECKPOINT_INTERVAL_S: Final = 2.0  # training that may be lost beyond the current epoch


def train_refit(
    data: StudyData, trained: Path, folder: Path, notify: Callable[[str], None]
) -> Checkpoint:
    """Train the final model, from where an earlier start left it, in this process. Returns its
    checkpoint, whose history is that of the folds' mean: its own scores would be on what it was
    trained on.

    Args:
        data: The study, which has folds.
        trained: Folder of the trial, or confirming run, whose settings it has.
        folder: Folder that keeps its checkpoint.
        notify: Function that shows the user a line.
    """
    folds = FoldsCheckpoint.load(trained / CHECKPOINT)
    run = folds.run
    kept = folder / CHECKPOINT
    resume = None
    with contextlib.suppress(WeightsError):  # none yet, or a torn one
        resume = Checkpoint.load(kept)
    loaded = data.load(run)
    if resume is None or resume.epoch < run.training.epochs:
        notify(
            f"training the final model: all speakers outside the test part, {run.training.epochs}"
            " epochs"
        )
    saved_at = time.monotonic()

    def report(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        nonlocal saved_at
        due = time.monotonic() - saved_at >= _CHECKPOINT_INTERVAL_S
        if due or epoch.epoch == run.training.epochs:
            checkpoint().save(kept)
            saved_at = time.monotonic()

    device = _device(data)
    try:
        last = train(run, loaded, report, device=device, resume=resume)
    except ConfigError:  # what was kept is of other settings or data
        last = train(run, loaded, report, device=device)
    return replace(last, history=folds.history)


def _device(data: StudyData) -> str:
    """The trials' kind of device, if this process has one: the driver's node may have no GPU."""
    if data.spec.device == "cuda":
        with contextlib.suppress(DeviceError):
            choose_device("cuda")
            return "cuda"
    return "cpu"
