"""A list of faults given to a subject, in one study or in as many as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos.course import Course, Finished, Terms
from benchmarks.chaos.disk import Disk

Mount = Callable[[Path], contextlib.AbstractContextManager[Disk]]


def run(terms: Terms, name: str, trials: int, mount: Mount | None = None) -> list[Finished]:
    """name: of the first study; trials: what a study is asked for at first; mount: makes the disk
    of a study's own.

    A study that is given up, or that cannot be extended, is followed by another while faults are
    left.
    """
    finished: list[Finished] = []
    while terms.schedule.left or not finished:
        number = f"-{len(finished) + 1}" if finished else ""
        storage = None if terms.postgres is None else terms.postgres.url
        study = terms.subject.study(f"{name}{number}", trials, storage)
        with contextlib.ExitStack() as stack:
            disk = None if mount is None else stack.enter_context(mount(study.folder))
            finished.append(Course(terms, study, disk).run())
    return finished
