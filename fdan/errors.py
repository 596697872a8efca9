"""What a user did and can mend. Every command shows these as one line and exits with 2.

Our own mistakes stay assertions and tracebacks.
"""

from __future__ import annotations

import difflib
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
    """One line for a name that nobody knows, with the nearest one that somebody does.

    >>> unknown("sampler", "tpo", ["tpe", "random"])
    "unknown sampler 'tpo': did you mean 'tpe'? Known: random, tpe"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{name}':{hint} Known: {', '.join(names)}"
