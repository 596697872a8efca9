"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from fdan.errors import FdanError

STUDY: Final = "a study's folder, or its name in ./runs"


def study_folder(text: str) -> Path:
    """What STUDY names. Raises FdanError where it is not there."""
    named, plain = Path(text), Path(text).name == text
    for folder in (named, Path("runs", text)) if plain else (named,):
        if folder.is_dir():
            return folder
    where = f", and no study '{text}' in ./runs" if plain else ""
    raise FdanError(f"{text}: no such folder{where}; give a study's folder, such as runs/demo")


def add_name(command: argparse.ArgumentParser) -> None:
    """--name."""
    command.add_argument(
        "--name", default="fdan", metavar="NAME", help="the registered model (default: fdan)"
    )


def add_uri(command: argparse.ArgumentParser, default: str) -> None:
    """--tracking-uri."""
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow's server or database (default: {default})",
    )


HERE: Final = "MLFLOW_TRACKING_URI, or ./runs/mlflow.db"
