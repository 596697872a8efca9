"""A search where /tmp takes nothing and TMPDIR's path is too long for Ray's sockets, as on clusters
that give each job a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT

pytestmark = pytest.mark.long

SETTINGS = ("--spectrogram-size", "32", "--face-size", "32", "--backbone", "resnet18")
SETTINGS += ("--weights", "none", "--tuning", "frozen", "--epochs", "2", "--trials", "1")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is not in /tmp."""
    if ROOT.is_relative_to("/tmp"):
        pytest.skip("the project itself lies in /tmp")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of mounts can be made here")
    made = Path(tempfile.mkdtemp(prefix="fdan-test-", dir="/var/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("options", ["ro", "size=64k"])
def test_a_search_goes_through(corpus: Path, folder: Path, options: str) -> None:
    shutil.copytree(corpus, folder / "corpus")
    long = folder / ("x" * 90)
    long.mkdir()
    fill = "" if options == "ro" else "dd if=/dev/zero of=/tmp/full bs=4k 2>/dev/null;"
    script = f'mount -t tmpfs -o {options} fdan-test /tmp; {fill} TMPDIR="{long}" exec "$@"'
    search = [sys.executable, str(ROOT / "search/run.py"), "--task", "savee:corpus", *SETTINGS]
    words = ["unshare", "-m", "sh", "-c", script, "sh", *search]
    # Libraries that other tests used in this process left names of folders in /tmp in its
    # environment (torch: TORCHINDUCTOR_CACHE_DIR).
    environ = {name: value for name, value in os.environ.items() if not value.startswith("/tmp")}
    done = subprocess.run(
        words, cwd=folder, env=environ, capture_output=True, text=True, timeout=480, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 COMPLETE" in done.stdout
    assert not any(Path("/var/tmp").glob("fdan-????????-*")), "Ray's files are gone"
