"""The project's folder; reading and writing of files that must survive a kill."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

PROJECT_ROOT: Final = Path(__file__).resolve().parents[1]
"""The folder that holds fdan, search and tracking: a checkout, or site-packages."""

_BLOCK: Final = 1 << 20  # bytes read at once while looking for the end of the last whole line


def write_atomic(
    path: Path, data: str | bytes | Callable[[Path], object], *, sync: bool = False
) -> None:
    """Write a file whole or not at all, under a temporary name that is then renamed.

    Args:
        path: The file; an existing one is replaced.
        data: Content (text as UTF-8, lone surrogates escaped), or a function that writes it to the
            path it is given.
            Whatever that function raises leaves `path` as it was.
        sync: Have the content on the disk before the rename, so that a power cut leaves the old
            or the new file. For the new name to be there for certain, `sync_path` the folder.

    Raises:
        OSError: The file cannot be written. Nothing is left under the temporary name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if callable(data):
            data(temporary)
        else:
            if isinstance(data, str):
                data = data.encode(errors="backslashreplace")
            temporary.write_bytes(data)
        if sync:
            sync_path(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it must not hide why the file was not written
            temporary.unlink(missing_ok=True)
        raise


def read_text(path: Path) -> str:
    """A text file of the user's, which editors of some systems begin with a byte order mark. Raises
    OSError, or UnicodeDecodeError (a ValueError) where it is not UTF-8."""
    return path.read_text(encoding="utf-8-sig")


def is_utf8(path: Path) -> bool:
    """Whether a name is UTF-8. Of one that is not, each odd byte is a lone surrogate in Python."""
    return not any("\ud800" <= sign <= "\udfff" for sign in str(path))


def sync_path(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException, limit: int | None = None) -> str:
    """An exception's message, on one line.

    Args:
        error: Exception; its first line, whitespace collapsed, or its class's name if empty.
        limit: Maximum number of characters.
    """
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:limit]


class JsonLines(contextlib.AbstractContextManager["JsonLines"]):
    """An append-only file of JSON values, one a line, written by one process at a time.

    A line counts once its newline is written. The torn line that a killed writer left at the end
    is cut off when the file is opened; a full disk leaves no part of a line behind. Every method
    raises OSError if the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        cut_torn_line(self._handle)
        self._torn = False

    def append(self, value: Any) -> None:
        """Write a value, which outlives this process when the call returns."""
        line = json.dumps(value).encode() + b"\n"
        if self._torn:
            cut_torn_line(self._handle)
            self._torn = False
        try:
            written = 0
            while written < len(line):  # a nearly full disk takes a part first, then refuses
                written += os.write(self._handle, line[written:])
        except OSError:
            self._torn = True  # in case cutting fails as well
            with contextlib.suppress(OSError):
                cut_torn_line(self._handle)
            raise

    def sync(self) -> None:
        """Have all lines on the disk, where a power cut does not reach them."""
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values of a JsonLines file in their order; nothing if there is no such file.

    A torn last line and lines that are not JSON are passed over.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def cut_torn_line(handle: int) -> None:
    """Cut off what follows the last newline of a file that is open for reading and writing."""
    end = os.fstat(handle).st_size
    start, block = end, b""
    while start > 0 and b"\n" not in block:
        start, stop = max(0, start - _BLOCK), start
        block = os.pread(handle, stop - start, start)
    whole = start + block.rfind(b"\n") + 1
    if whole < end:
        os.ftruncate(handle, whole)
