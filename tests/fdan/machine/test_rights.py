"""A group's folder hands its rights on; what the system refuses is explained."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdan.machine.rights import denied, explain, follow_group, why_unwritable, write_with_rights


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("mode", "made"), [(0o2775, 0o660), (0o0775, 0o640), (0o2755, 0o640), (0o1777, 0o640)]
)
def test_only_a_folder_that_is_a_groups_decides(tmp_path: Path, mode: int, made: int) -> None:
    tmp_path.chmod(mode)
    follow_group(tmp_path / "runs" / "new")
    (tmp_path / "file").touch()
    assert (tmp_path / "file").stat().st_mode & 0o777 == made


def test_a_file_kept_to_its_owner_by_a_library_gets_the_usual_rights(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    write_with_rights(tmp_path / "file", write)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_refusal_names_what_exists_whose_it_is_and_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir(mode=0o700)
    missing = folder / "below" / "file"
    error = PermissionError(errno.EACCES, "Permission denied", str(missing))
    assert denied(error)
    line = explain(error, tmp_path)
    assert line.startswith(f"{missing}: Permission denied ({folder} is ")
    assert "drwx------" in line and f"chmod u+rwX '{folder}'" in line  # it is our own
    read_only = explain(OSError(errno.EROFS, "Read-only file system"), folder)
    expected = f"{folder}: Read-only file system (choose a folder that can be written)"
    assert read_only == expected
    full = OSError(errno.ENOSPC, "No space left on device")
    assert not denied(full) and explain(full, folder) == f"{folder}: No space left on device"
    assert why_unwritable(folder) is None
