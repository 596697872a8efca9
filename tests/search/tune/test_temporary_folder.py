"""Where Ray's files go."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

WHERE = """
import sys
from pathlib import Path
from fdan.cli.arguments import exit_code
from search.tune.ray_session import _temporary_folder
def main():
    print(_temporary_folder(Path("/study")))
    return 0
sys.exit(exit_code(main))
"""

FULL = "mount -t tmpfs -o size=64k fdan-test {0}; dd if=/dev/zero of={0}/full bs=4k 2>/dev/null;"
READ_ONLY = "mount -t tmpfs -o ro fdan-test {0};"


def _where(mounts: str, long: Path) -> subprocess.CompletedProcess[str]:
    """The folder of a study, in a namespace with these mounts, beside a TMPDIR of a long path."""
    if ROOT.is_relative_to("/tmp") or ROOT.is_relative_to("/var/tmp"):
        pytest.skip("the project itself lies in a temporary folder")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespace of mounts can be made here")
    script = f'{mounts} cd "$0" && TMPDIR="{long}" exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, str(ROOT), sys.executable, "-c", WHERE]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("how", [FULL, READ_ONLY])
def test_it_is_another_one_where_tmp_takes_nothing(tmp_path: Path, how: str) -> None:
    done = _where(how.format("/tmp"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/var/tmp/fdan-")
    Path(done.stdout.strip()).rmdir()


def test_where_none_takes_anything_they_are_named(tmp_path: Path) -> None:
    mounts = FULL.format("/tmp") + READ_ONLY.format("/var/tmp") + READ_ONLY.format("/dev/shm")
    done = _where(mounts, tmp_path)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert "/tmp: No space left on device; /var/tmp: Read-only file system" in line
    assert "set TMPDIR" in line
