"""A small disk that can be full: a tmpfs mount, which needs root."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOMY: Final = 2 << 30
_SPARE: Final = 256 << 10
"""What a full disk has left, at most."""


class Disk:
    """A mounted disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fill(self, rng: random.Random) -> int:
        """Leave a little room, and return how many bytes."""
        for _ in range(10):
            facts = os.statvfs(self._folder)
            used = (facts.f_blocks - facts.f_bfree) * facts.f_frsize
            spare = rng.randrange(0, _SPARE, facts.f_frsize)
            if not _mount(f"remount,size={used + spare}", self._folder):
                return spare
        raise OSError(f"{self._folder}: cannot be made smaller")  # it grows faster than we look

    def free(self) -> None:
        """Room for everything again."""
        problem = _mount(f"remount,size={_ROOMY}", self._folder)
        assert not problem, problem


def refused(folder: Path) -> str:
    """Why no disk can be mounted here; empty where one can."""
    folder.mkdir(parents=True, exist_ok=True)
    problem = _mount("size=1m", folder)
    if not problem:
        _unmount(folder)
    return problem


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Disk]:
    """A roomy disk at `folder`, made for it and empty afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    problem = _mount(f"size={_ROOMY}", folder)
    assert not problem, problem
    try:
        yield Disk(folder)
    finally:
        _unmount(folder)


def _mount(options: str, folder: Path) -> str:
    """What `mount` complains of; empty where it worked."""
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or "mount failed"


def _unmount(folder: Path) -> None:
    # Lazily: a dying process may have a file open.
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
