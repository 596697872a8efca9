"""The `python -m tracking` commands, a file each. Its docstring is the command's help: one line,
the description, and last the exit codes. `add_arguments` adds its options, and `run` takes the
parsed arguments and returns the exit code."""

import argparse
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from fdan.machine.rights import follow_group
from tracking.backend.moved import print_line as print_step

__all__ = ["STUDY", "add_registry", "add_runs", "print_step", "registry_uri", "study_folder"]

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


def add_runs(command: argparse.ArgumentParser) -> None:
    """Add --runs, for commands that are not about one study.

    Args:
        command: Command that gets it.
    """
    text = "folder of studies whose own database is meant, in place of --tracking-uri"
    command.add_argument("--runs", type=Path, metavar="FOLDER", help=text)


def registry_uri(arguments: argparse.Namespace) -> str:
    """The server or database that --tracking-uri or --runs names, or else the one in use here.
    Raises FdanError if there is none."""
    from tracking.registry.download import tracking_uri
    from tracking.uri import default_uri

    runs: Path | None = arguments.runs
    if runs is None:
        return arguments.tracking_uri or tracking_uri()
    if arguments.tracking_uri:
        raise FdanError("--runs and --tracking-uri name a database each: give one of them")
    if not (runs / "mlflow.db").is_file():
        raise FdanError(
            f"--runs {runs}: no mlflow.db is in it; its studies were tracked elsewhere"
            " (--tracking-uri), or it is not the folder of the studies"
        )
    return default_uri(runs)
