"""What the sender needs of MLflow, and who gives it: the REST interface directly, or MLflow's own
client for everything that is more than a plain server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tracking.backend.batching import Item


class Api(Protocol):
    """One server or database. Any method raises whatever goes wrong; an error that MLflow itself
    gave has its code in `error_code`."""

    def experiment(self, name: str) -> tuple[str, str] | None:
        """Its id and its stage, "active" or "deleted"; None if there is none of that name."""

    def create_experiment(self, name: str, artifacts: str | None) -> str:
        """Its id. artifacts: URI of the folder for its files; None leaves that to the server."""

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run with these tags, deleted ones included."""

    def create_run(self, experiment: str, name: str, start: int, tags: Mapping[str, str]) -> str:
        """Its id. start: ms since 1970."""

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        """One batch within MLflow's limits."""

    def update(self, run_id: str, status: str, end: int | None) -> None:
        """Set a run's status; end: ms since 1970, None for a run that goes on."""

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        """Log an artifact into `folder`, "" for the top."""

    def stage(self, run_id: str) -> str:
        """A run's stage, "active" or "deleted"."""
