"""A home folder for the libraries that want one. In a container, or under a batch system, there may
be none: the account is unknown to the system, or its home is not there or cannot be written."""

import getpass
import os
import tempfile
from pathlib import Path

from fdan.errors import FdanError


def ensure_home() -> str:
    """Give this process and its children a home below the temporary folder if they have none, and a
    name if the account has none: Ray, torch, numba and MLflow ask for both.

    Returns:
        A line for the user; empty where nothing had to be done.

    Raises:
        FdanError: No temporary folder can be written either.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.geteuid())
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (pathlib's raises)
    if home.is_absolute() and home.is_dir() and os.access(home, os.W_OK | os.X_OK):
        return ""
    own = _own_folder()
    os.environ["HOME"] = str(own)
    reason = f"{home} cannot be written" if home.is_absolute() else "this account has no home"
    return f"{reason}: caches go to {own}; to keep them elsewhere, set HOME"


def _own_folder() -> Path:
    """A folder that no other account can write, the same each time."""
    try:
        base = Path(tempfile.gettempdir())
        own = base / f"fdan-home-{os.geteuid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        made = own.lstat()
        # Another account may have been first.
        if made.st_uid != os.geteuid() or made.st_mode & 0o022 or own.is_symlink():
            own = Path(tempfile.mkdtemp(prefix=f"{own.name}-", dir=base))
    except OSError as error:
        raise FdanError(
            "neither a home nor a temporary folder can be written"
            f" ({error.strerror or error}): set HOME or TMPDIR to a folder that can"
        ) from None
    return own
