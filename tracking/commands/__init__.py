"""The `python -m tracking` commands, a file each. Its docstring is the command's help: one line,
the description, and last the exit codes. `add_arguments` adds its options, and `run` takes the
parsed arguments and returns the exit code."""

import argparse
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from fdan.machine.rights import follow_group
from tracking.backend.moved import print_line as print_step

__all__ = ["STUDY", "add_registry", "print_step", "study_folder"]

STUDY: Final = "a study's folder, or its name in ./runs"


def study_folder(text: str) -> Path:
    """The folder that STUDY names. Raises FdanError if there is none."""
    folder, is_name = Path(text), Path(text).name == text
    for candidate in (folder, Path("runs", text)) if is_name else (folder,):
        if candidate.is_dir():
            follow_group(candidate.absolute())
            return candidate
    also = f", and no study '{text}' in ./runs" if is_name else ""
    raise FdanError(f"{text}: no such folder{also}; give a study's folder, such as runs/demo")


def add_registry(
    command: argparse.ArgumentParser, default: str = "MLFLOW_TRACKING_URI, or ./runs/mlflow.db"
) -> None:
    """Add the options that name a registered model.

    Args:
        command: Command that gets them.
        default: What is meant without --tracking-uri, for the help.
    """
    add = command.add_argument
    add("--name", default="fdan", metavar="NAME", help="the registered model (default: fdan)")
    server = f"MLflow's server or database (default: {default})"
    add("--tracking-uri", metavar="URI", help=server)
