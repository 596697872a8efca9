"""A disk that is full, for real: what the fixture `disk` mounts."""

from __future__ import annotations

from pathlib import Path


def fill(disk: Path) -> Path:
    """Take all room that is left; returns the file that has it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return ballast
