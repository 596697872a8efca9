"""Media containers that FFmpeg opens, with its errors in plain words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fdan.errors import DataError


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """An av.container.InputContainer, closed at the end. DataError: FFmpeg cannot open it, or fails
    inside the block."""
    import av

    av.logging.set_level(None)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        words = {
            av.error.InvalidDataError: "damaged, or not what its name says",
            av.error.EOFError: "it breaks off too early",
            av.error.PatchWelcomeError: "its coding is not known here",
            # Mostly refused by FFmpeg itself, without asking the system.
            av.error.MemoryError: "its header asks for more memory than it can have",
        }
        reason = words.get(type(error), error.strerror or type(error).__name__)
        raise DataError(f"cannot be decoded ({reason})") from error
