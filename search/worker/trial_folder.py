"""The folder that a trial owns, as workers, the driver and whoever looks at a study find it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

TRIALS: Final = "trials"
"""In the folder of a study, or of its confirming runs: its trials' own."""

CHECKPOINT: Final = "checkpoint"
"""In a trial's folder: its newest checkpoint."""


def folder_of(study: Path, number: int) -> Path:
    """That of the trial `number`."""
    return study / TRIALS / f"{number:04d}"
