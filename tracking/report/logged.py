"""A report among the artifacts of its study's run in MLflow."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from tracking.backend.server import (
    Rejected,
    RunNotFound,
    Server,
    ServerUnavailable,
    ServerUnusable,
)
from tracking.nested_result import load_result
from tracking.outbox.delivery_state import Target
from tracking.tags import STUDY_RUN, identity
from tracking.uri import is_masked, mask_password, sqlite_file

_FOLDER: Final = "study"
"""Among the artifacts of the run: where a search puts the study's figures, too."""


class NotLogged(FdanError):  # noqa: N818
    """The report is written, and MLflow did not take it."""


def log(study: Path, files: Sequence[Path], uri: str | None = None) -> str:
    """Log files with a study's parent run in MLflow. Raises NotLogged, in one line.

    Args:
        study: The study's folder.
        files: Files to log.
        uri: The server or database; None: the study's own.

    Returns:
        The run's id.
    """
    result = load_result(study)
    uri = uri or result.tracking_uri
    if is_masked(uri):
        raise NotLogged(f"the password of {uri} was not kept; give the whole URI: --tracking-uri")
    if (database := sqlite_file(uri)) is not None and not database.exists():
        # To connect would make a new one.
        raise NotLogged(f"{database} is gone")
    artifacts = Target(uri, result.experiment).artifacts(study / "spool")
    try:
        server = Server(uri, result.experiment, artifacts)
        run = server.find_run(identity(result.study_id, STUDY_RUN))
        if run is None:
            raise NotLogged(
                f"{mask_password(uri)} has no run of study '{result.study}' yet:"
                f" python -m tracking flush {shlex.quote(str(study))}, then again"
            )
        for file in files:
            server.send_file(run, file, _FOLDER)
    except ServerUnusable as unusable:
        raise NotLogged(str(unusable)) from None
    except ServerUnavailable as away:
        raise NotLogged(f"{mask_password(uri)} is away ({away})") from None
    except (Rejected, RunNotFound) as refusal:
        raise NotLogged(f"{mask_password(uri)} refused it ({refusal})") from None
    return run
