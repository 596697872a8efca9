"""Damaged files of every kind through `prepare`, as the benchmark does it with many more."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent.parent


def test_sixty_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.mutated_media"),
            *("--files", "60", "--seed", "1", "--json", str(file)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    assert result["violations"] == []
    verdicts = result["verdicts"]
    cells = Counter((verdict["kind"], verdict["mutation"]) for verdict in verdicts)
    assert len(cells) == 7 * 5 and set(cells.values()) == {2}  # an mp4 is prepared twice
    assert len({verdict["file"] for verdict in verdicts}) == 60
    assert not any(verdict["crash"] or verdict["hang"] for verdict in verdicts)
    assert all(verdict["read"] or verdict["reason"] for verdict in verdicts)
    # They are damaged, not destroyed: some of each kind can still be used.
    assert {verdict["kind"] for verdict in verdicts if verdict["read"]} >= {"wav", "flac", "avi"}
    assert sum(verdict["read"] for verdict in verdicts) < len(verdicts) * 0.7
