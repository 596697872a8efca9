"""The latency benchmark measures what it says, on few clips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT

pytestmark = pytest.mark.long


def test_it_measures_both(tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    command = [sys.executable, "-m", "benchmarks.latency", "--clips", "2", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["apart"] < 1e-5
    for name in ("torch", "onnxruntime"):
        assert found[name]["p95"] >= found[name]["median"] > 0
        assert found[name]["cpu"] > found[name]["network_cpu"] > 0
        assert f"  {name}" in done.stdout
    assert "ResNet-34 at 224, random weights" in done.stdout
