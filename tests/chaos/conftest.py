"""benchmarks/ is not installed with the project: its tests find it beside tests/."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

Chaos = Callable[[Mapping[str, int]], dict[str, Any]]


@pytest.fixture
def chaos(tmp_path: Path) -> Chaos:
    """Runs `python -m benchmarks.chaos` with so many faults of each kind; gives what it found of
    ours, which must be without violations."""

    def run(faults: Mapping[str, int]) -> dict[str, Any]:
        words = [word for kind, count in faults.items() for word in (f"--{kind}", str(count))]
        report = tmp_path / "report.json"
        command = [
            *(sys.executable, "-m", "benchmarks.chaos", *words),
            *("--seed", "3", "--json", str(report), "--folder", str(tmp_path / "chaos")),
        ]
        output = tmp_path / "output.txt"
        with output.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
        try:
            code = process.wait()
        finally:
            process.terminate()  # it ends all that it has started
            process.wait()
            print(output.read_text()[-9000:])
        assert code == 0
        (result,) = json.loads(report.read_text())
        assert isinstance(result, dict)
        return result

    return run
