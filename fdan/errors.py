"""Errors that a user can mend. Every command shows them as one line and exits with 2.

Our own mistakes stay assertions and tracebacks.
"""

import difflib
import errno
import os
from collections.abc import Iterable


class FdanError(ValueError):
    """One line: what is wrong, where, and what to do."""


class ConfigError(FdanError):
    """A setting that is unknown, of the wrong type or out of its range."""


class DataError(FdanError):
    """A corpus, a media file, a store or a split that cannot serve."""


class WeightsError(FdanError):
    """Backbone weights or a checkpoint that cannot be had or do not fit."""


class DeviceError(FdanError):
    """A device that this machine does not have."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line about an unknown name, with the nearest one that is known.

    Args:
        what: Kind of thing that it names.
        name: The unknown name.
        known: All known names.

    >>> unknown("sampler", "tpo", ["tpe", "random"])
    "unknown sampler 'tpo': did you mean 'tpe'? Known: random, tpe"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{name}':{hint} Known: {', '.join(names)}"


class DiskFull(FdanError):  # noqa: N818
    """There is no room to write; what was written before is whole."""

    def __init__(self, where: object) -> None:
        super().__init__(
            f"no room left on the disk ({where}): what was written before is whole; free some"
            " space, then the same command goes on"
        )


_FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that a disk (or quota) is full."""
    cause: BaseException | None = error
    while cause is not None:
        # safetensors gives the system's words without its number.
        if getattr(cause, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


_NO_MEMORY = ("can't allocate memory", "out of memory", os.strerror(errno.ENOMEM))


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was too little memory, the machine's or a GPU's. Torch
    and safetensors have words for it only."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return not isinstance(error, FdanError) and any(words in str(error) for words in _NO_MEMORY)
