"""The folder that a trial owns, as workers, the driver and the status command find it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TRIALS: Final = "trials"
"""In the folder of a study, or of its confirming runs: the folders of its trials."""

CHECKPOINT: Final = "checkpoint"
"""In a trial's folder: its newest checkpoint."""


def trial_folder(study: Path, number: int) -> Path:
    """The folder of one trial.

    Args:
        study: Folder of the study, or of its confirming runs.
        number: Optuna's number of the trial.
    """
    return study / TRIALS / f"{number:04d}"
