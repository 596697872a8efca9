"""Files are written whole or not at all, and a torn or refused line never counts."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fdan import files
from fdan.files import (
    JsonLines,
    cut_torn_line,
    first_line,
    read_json_lines,
    sha256_file,
    write_atomic,
)


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced(tmp_path: Path, sync: bool) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "ä", sync=sync)
    assert file.read_bytes() == "ä".encode()
    write_atomic(file, b"\xff", sync=sync)
    assert file.read_bytes() == b"\xff"
    write_atomic(file, lambda path: path.write_text("written"), sync=sync)
    assert file.read_text() == "written"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError(), KeyboardInterrupt()]
)
def test_a_failure_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomic(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_the_content_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, synced = tmp_path / "a", []
    monkeypatch.setattr(files, "sync_path", lambda path: synced.append(path.read_text()))
    file.write_text("old")
    write_atomic(file, "new", sync=True)
    assert synced == ["new"]
    write_atomic(file, "newer")
    assert synced == ["new"] and file.read_text() == "newer"


def test_no_name_is_taken_for_another_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", "text")
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "b", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_sha256(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc" * 100_000)
    assert sha256_file(file) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("  \n a \t  wide\r\nsecond"), "a wide"),
        (ValueError(), "ValueError"),
        (OSError(errno.ENOSPC, "full"), f"[Errno {errno.ENOSPC}] full"),
    ],
)
def test_first_line(error: BaseException, line: str) -> None:
    assert first_line(error) == line
    assert first_line(error, 3) == line[:3]


def test_lines_are_appended_and_read(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert list(read_json_lines(file)) == []
    with JsonLines(file) as lines:
        lines.append({"a": "ä\n"})
        assert list(read_json_lines(file)) == [{"a": "ä\n"}]
        lines.sync()
    with JsonLines(file) as lines:
        lines.append(2)
    assert list(read_json_lines(file)) == [{"a": "ä\n"}, 2]
    assert file.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [b"", b"{", b'{"a": 3}', b'"' + b"x" * (3 << 20)])
def test_a_torn_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"1\n2\n" + torn)
    assert list(read_json_lines(file)) == [1, 2]
    JsonLines(file).close()
    assert file.read_bytes() == b"1\n2\n"
    file.write_bytes(torn)
    JsonLines(file).close()
    assert file.read_bytes() == b""


def test_a_spoilt_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"1\n\x00\xff\n3\n")
    assert list(read_json_lines(file)) == [1, 3]


@pytest.mark.parametrize("cutting_fails", [False, True])
def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cutting_fails: bool
) -> None:
    file = tmp_path / "a.jsonl"
    lines = JsonLines(file)
    lines.append("first")
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "full")
        return write(handle, data[: len(data) - 5])

    def refuse(handle: int) -> None:
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(os, "write", full)
    if cutting_fails:
        monkeypatch.setattr(files, "cut_torn_line", refuse)
    with pytest.raises(OSError, match="full"):
        lines.append("a line that is too long for this disk")
    assert list(read_json_lines(file)) == ["first"]
    assert (file.read_bytes() == b'"first"\n') is not cutting_fails
    monkeypatch.undo()
    lines.append("again")
    assert list(read_json_lines(file)) == ["first", "again"]
    lines.close()


def test_cutting_keeps_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * (5 << 20) + b"\n")
    with file.open("r+b") as opened:
        cut_torn_line(opened.fileno())
    assert file.stat().st_size == (5 << 20) + 1


def test_it_is_light() -> None:
    code = (
        "import sys, fdan.files; print(*sorted(set(sys.modules) & {'numpy', 'torch', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
