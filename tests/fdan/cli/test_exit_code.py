"""How a command ends: its exit code, and that no output is lost unnoticed."""

from __future__ import annotations

import json
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


NO_MEMORY = """
import sys, torch
from pathlib import Path
from fdan.cli.arguments import exit_code
from fdan.inference.model_folder import read_model
from fdan.model.backbones import Weights, build_backbone

def allocate(*_, **__):
    torch.empty(1 << 60, dtype=torch.uint8)

import safetensors.torch
safetensors.torch.load_file = allocate
torch.load = allocate
what = {
    "model": lambda: read_model(Path(sys.argv[2])),
    "weights": lambda: build_backbone(Weights("resnet18", Path(sys.argv[2]), "")),
    "python": lambda: bytearray(1 << 60),
}
sys.exit(exit_code(lambda: what[sys.argv[1]]() and 0))
"""


@pytest.mark.parametrize("what", ["model", "weights", "python"])
def test_too_little_memory_is_told_and_is_no_damage(what: str, tmp_path: Path) -> None:
    """Torch's own error, which is a RuntimeError like those of damaged files."""
    from fdan.emotions import EMOTIONS
    from fdan.inference.model_folder import FORMAT
    from fdan.run_config import RunConfig

    facts = {"format": FORMAT, "emotions": list(EMOTIONS), "run": RunConfig().as_dict()}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    path = tmp_path if what == "model" else tmp_path / "weights.pt"
    command = [sys.executable, "-c", NO_MEMORY, what, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: there is too little memory (")
    assert "damaged" not in line and "cannot be read" not in line
