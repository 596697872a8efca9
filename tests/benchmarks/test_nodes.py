"""The benchmark on many nodes, on two and with few trials; and that it tells parts apart."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.nodes.parts import OTHER, Parts
from tests.benchmarks.conftest import ROOT

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "benchmarks.nodes"]


def test_ours_and_bare_ray_tune(tmp_path: Path) -> None:
    """Every run checks its own trials; the goal is for the full size."""
    file = tmp_path / "nodes.json"
    small = ["--nodes", "2", "--trials", "6", "--epochs", "2", "--rounds", "1", "--pause", "100"]
    command = [*COMMAND, *small, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1) and "ours takes" in done.stdout, done.stderr
    found = json.loads(file.read_text())
    assert found["runs"]["ours"][0]["epochs"] == found["runs"]["bare"][0]["epochs"] == 12
    assert found["ratio"] == found["runs"]["ours"][0]["wall"] / found["runs"]["bare"][0]["wall"]
    mine, alone = found["parts"]["ours"], found["parts"]["bare"]
    for one in (mine, alone):
        wall = sum(wall for wall, _ in one["parts"].values())
        assert 0.7 * one["wall"] < wall <= 1.1 * one["wall"]
        for part in ("waiting for workers", "Ray Tune's own loop"):
            assert one["parts"][part][0] > 0, part
    assert mine["parts"]["Optuna's journal on disk"][0] > 0
    assert not [part for part in alone["parts"] if "Optuna" in part or "spool" in part]


def test_bad_input_is_one_line() -> None:
    for words in (["--nodes", "0"], ["--pause", "x"]):
        done = subprocess.run([*COMMAND, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"'{words[1]}': expected" in done.stderr


def test_parts_of_two_threads() -> None:
    """One thread draws while the other one sleeps: the CPU time is the drawing's."""
    ended = time.monotonic() + 0.5

    def busy() -> None:
        while time.monotonic() < ended:
            sum(range(1000))

    drawing = threading.Thread(target=busy, name="figures_0")
    drawing.start()
    with Parts(lambda: True) as parts:
        while time.monotonic() < ended:
            time.sleep(0.01)
    drawing.join()
    figures = parts.cpu["figures: the drawing thread"]
    assert figures > 5 * parts.cpu[OTHER] and figures > 0.02
    assert parts.wall[OTHER] > 0.2 and set(parts.wall) == {OTHER}
