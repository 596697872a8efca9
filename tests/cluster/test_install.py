"""A node's set-up where something is missing: one line, and nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster.machines import ROOT

# What a file system without locks answers cannot be had here: Lustre's kernel module, say.
WITHOUT_LOCKS = """#!/bin/sh
case "$*" in *-w*) echo "flock: 8: Function not implemented" >&2; exit 1 ;; esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node as `ray up` leaves it before the set-up."""
    (tmp_path / "fdan-search" / "cluster").mkdir(parents=True)
    shutil.copy(ROOT / "cluster" / "install.sh", tmp_path / "fdan-search" / "cluster")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / ".bashrc").write_text("mine=1\n")
    (tmp_path / "programs").mkdir()
    (tmp_path / "shared").mkdir()
    return tmp_path


def refused(home: Path, shared: Path) -> str:
    done = subprocess.run(
        ["bash", home / "fdan-search" / "cluster" / "install.sh", shared],
        env={"HOME": str(home), "PATH": f"{home / 'programs'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert not (home / "fdan-search" / ".venv").exists()
    assert (home / ".bashrc").read_text() == "mine=1\n"
    return done.stderr.splitlines()[-1]


def program(home: Path, name: str, text: str) -> None:
    (home / "programs" / name).write_text(text)
    (home / "programs" / name).chmod(0o755)


def test_storage_that_is_not_mounted(home: Path) -> None:
    line = refused(home, home / "nowhere")
    assert line.startswith("error: ") and "nowhere is not a folder" in line
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600, "closed first of all"


def test_storage_without_locks(home: Path) -> None:
    program(home, "flock", WITHOUT_LOCKS)
    assert "has no file locks" in refused(home, home / "shared")


def test_a_python_that_is_too_old(home: Path) -> None:
    program(home, "python3", '#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.2 && exit\nexit 1\n')
    assert "needs Python 3.11 or newer" in refused(home, home / "shared")
