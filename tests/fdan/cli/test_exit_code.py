"""How a command ends: its exit code, and that no output is lost unnoticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys, threading, time
from fdan.cli.arguments import exit_code
def late():
    time.sleep(0.3)
    print("thread")
threading.Thread(target=late).start()
atexit.register(lambda: print("registered"))
print("first")
sys.exit(exit_code(lambda: int(sys.argv[1])))
"""


# Output stays in Python's buffer until the end.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("code", [0, 3])
def test_threads_and_what_was_registered_come_first(code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ["first", "thread", "registered"]


def test_nobody_reads() -> None:
    pipe = f'set -o pipefail; "{sys.executable}" -c "$0" 0 | true'
    done = subprocess.run(
        ["bash", "-c", pipe, PROGRAM], env=BUFFERED, capture_output=True, text=True
    )
    assert done.returncode == 141, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_no_room_for_the_output() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", PROGRAM, "0"]
        done = subprocess.run(command, env=BUFFERED, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output could not be written: [Errno 28]")
    assert len(done.stderr.splitlines()) == 1
