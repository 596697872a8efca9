"""Where a study's trials keep their checkpoints and what they reported.

On one machine that is `trials/` in the study's folder. On a cluster the study's folder is the
driver's own, and `trials` is a link into a folder that all nodes see (`--shared`).
"""

from __future__ import annotations

from pathlib import Path

from search.study.open import StudyError
from search.worker.trial_folder import TRIALS


def share(folder: Path, name: str, shared: Path) -> None:
    """Make `trials` in `folder`, a study's or that of its confirming runs, a link into `shared`.
    name: unlike any other's.

    Raises StudyError where the trials are somewhere else already, or cannot be shared.
    """
    link, there = folder / TRIALS, shared / "studies" / name / TRIALS
    if link.is_symlink():
        if not link.exists():
            raise StudyError(
                f"{folder}: its checkpoints are in {link.readlink()}, which is not there: mount it"
            )
        return
    if link.exists():
        raise StudyError(
            f"{folder}: its checkpoints are in it, where the cluster's other nodes do not see them:"
            " choose another --study here, or continue this one without the cluster"
        )
    try:
        there.mkdir(parents=True, exist_ok=True)
        link.symlink_to(there)
    except OSError as error:
        raise StudyError(f"--shared {shared}: {there}: {error.strerror}") from None


def of_workers(folder: Path) -> Path:
    """`folder` as workers are told it: where the folder is that `trials` in it stands for."""
    return (folder / TRIALS).resolve().parent
