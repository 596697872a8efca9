"""A study remembers the options of its newest start: its name alone continues it.

What is given now replaces what is remembered; where the two make another study, it is refused like
any other (search/study/open.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from fdan.data.open_task import DataConfig
from fdan.errors import FdanError
from search.config.options import from_arguments, pick
from search.study.folder import read_arguments
from tracking.uri import TRACKING_URI_VARIABLE, is_masked

_DATA: Final = frozenset(("task", "acoustic", "visual"))
ONCE: Final = frozenset(("score_again",))
"""Options that hold for one start alone: neither remembered nor written for another study."""


def remembered_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are left out here and that the study named by `study` remembers.

    Raises:
        FdanError: One of them had a password, which is not kept.
    """
    name = options.get("study")
    if name is None:
        return {}
    folder = DataConfig(**pick(options, DataConfig)).runs / name
    given = options.keys() | ONCE
    if given & _DATA:
        given |= _DATA
    if "gpus_per_trial" in given:
        given |= {"device"}
    remembered = from_arguments(read_arguments(folder) or (), str(folder / "study.json"))
    left = {key: value for key, value in remembered.items() if key not in given}
    for key, value in list(left.items()):
        if isinstance(value, str) and is_masked(value):
            if key == "tracking_uri" and os.environ.get(TRACKING_URI_VARIABLE):
                del left[key]  # it came from there, or is given there again
                continue
            flag = "--" + key.replace("_", "-")
            raise FdanError(
                f"study '{name}': its {flag} had a password, which is not kept: give it again"
            )
    return left


def new_study_note(options: Mapping[str, Any]) -> str:
    """A line for a study that does not exist yet and was given a name alone, which may be
    misspelt; empty for any other."""
    name = options.get("study")
    if name is None or options.keys() & _DATA:
        return ""
    runs = DataConfig(**pick(options, DataConfig)).runs
    if read_arguments(runs / name) is not None:
        return ""
    return f"there is no study '{name}' in {runs}: this begins a new one, on the demo corpus"
