"""A command in a fork of a warm process is what it is in a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm_process import RUN, _at_start, run_warm, runs_warm

# A module of the working folder, which says all that it can see of its process.
PROGRAM = """
import atexit, os, sys, threading
print(__name__, __file__, sys.argv, sys.orig_argv, os.getcwd(), sys.path[0], ascii(sys.argv[-1]))
print(os.environ.get("COLUMNS"), os.environ.get("PYTEST_CURRENT_TEST"), sys.stdin.read())
print(threading.active_count(), sys.stdout.isatty(), sys.stdout.encoding, sys.flags.safe_path)
print(sys.modules["__main__"].__dict__ is globals(), __spec__ and __spec__.name)
atexit.register(print, "at exit")
threading.Timer(0.1, print, ("a thread that ends later",)).start()
if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "raise":
        raise ValueError("odd")
    if len(sys.argv) > 1 and sys.argv[1] == "kill":
        os.kill(os.getpid(), 9)
    print("to stderr", file=sys.stderr)
    if len(sys.argv) > 1:
        sys.exit(int(sys.argv[1]) if sys.argv[1].isdigit() else sys.argv[1])
"""


@pytest.mark.parametrize("argument", [[], ["0"], ["3"], ["words"], ["raise"], ["kill"], ["\udce9"]])
@pytest.mark.parametrize("named", [True, False], ids=["-m", "file"])
def test_it_is_what_a_new_process_is(named: bool, argument: list[str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [*(["-m", "program"] if named else [str(tmp_path / "program.py")]), *argument]
    environment = {**os.environ, "COLUMNS": "77"}
    warm = run_warm(words, tmp_path, environment, 60)
    new = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (warm.returncode, warm.stdout) == (new.returncode, new.stdout)
    # Where the exception came from, it is this file's `__main__`, or the interpreter's.
    assert warm.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_what_takes_too_long_is_killed_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time; time.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired):
        run_warm([str(tmp_path / "program.py")], tmp_path, os.environ, 0.5)
    assert run_warm(["-m", "fdan", "--version"], tmp_path, os.environ, 60).returncode == 0


@pytest.mark.parametrize(
    "words",
    [["-c", "pass"], ["-m", "benchmarks.chaos"], ["-P", "-m", "fdan"], ["other/search/run.py"]],
)
def test_another_program_starts_anew(words: list[str]) -> None:
    assert not runs_warm(words, os.environ)


def test_what_may_be_read_at_import_starts_anew() -> None:
    at_start = _at_start()  # what other tests import here may have set more since
    assert runs_warm(["-m", "fdan"], at_start) and runs_warm([RUN], at_start)
    assert runs_warm([RUN], {**at_start, "COLUMNS": "100", "TORCH_HOME": "/nowhere"})
    for name in ("PYTHONPATH", "HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MPLBACKEND"):
        assert not runs_warm([RUN], {**at_start, name: "1"})
    assert not runs_warm([RUN], {k: v for k, v in at_start.items() if k != "PATH"})
