"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from fdan.errors import FdanError

STUDY: Final = "a study's folder, or its name in ./runs"
DEFAULT_URI: Final = "MLFLOW_TRACKING_URI, or ./runs/mlflow.db"


def study_folder(text: str) -> Path:
    """The folder that STUDY names. Raises FdanError if there is none."""
    folder, is_name = Path(text), Path(text).name == text
    for candidate in (folder, Path("runs", text)) if is_name else (folder,):
        if candidate.is_dir():
            return candidate
    also = f", and no study '{text}' in ./runs" if is_name else ""
    raise FdanError(f"{text}: no such folder{also}; give a study's folder, such as runs/demo")


def add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--name", default="fdan", metavar="NAME", help="the registered model (default: fdan)"
    )


def add_uri(command: argparse.ArgumentParser, default: str) -> None:
    """Add --tracking-uri.

    Args:
        command: Command that gets the option.
        default: The one used without it, for the help.
    """
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow's server or database (default: {default})",
    )
