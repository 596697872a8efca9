"""The chaos program's command line and its table, without a study."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.chaos.course import Finished
from benchmarks.chaos.faults import HELP
from benchmarks.chaos.schedule import shuffled
from benchmarks.chaos.subject import Study
from benchmarks.chaos.table import Result, show
from tests.chaos.conftest import ROOT
from tests.chaos.test_invariants import whole


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_says_what_each_fault_does() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(kind in done.stdout and text in done.stdout for kind, text in HELP.items())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--driver", "many"), "--driver: 'many': expected a whole number from 0"),
        (("--drivers", "1"), "unknown option '--drivers': did you mean '--driver'?"),
        (("--subject", "hours"), "--subject: unknown value 'hours': did you mean 'ours'?"),
        (("--driver", "0"), "no faults are asked for"),
        (("--folder", "USED"), "holds an earlier run; choose another"),
        (("--json", "USED/not-there/report.json"), "no such folder"),
    ],
)
def test_a_wrong_option_is_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    done = run(*(word.replace("USED", str(tmp_path)) for word in words))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert line in done.stderr


def test_faults_are_drawn_by_the_seed() -> None:
    counts = {"driver": 6, "worker": 6}
    one, other = (shuffled(counts, random.Random(seed)) for seed in (0, 1))
    assert one == shuffled(counts, random.Random(0)) and one != other
    assert Counter(one) == Counter(other) == counts


def test_table_counts_and_tells_each_violation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Study("small", tmp_path, 4)
    given = [("driver", "starting"), ("driver", "ending"), ("worker", "loading")]
    ours, stock = Result("ours", skipped={"disk": "must be superuser"}), Result("stock")
    ours.add(Finished(study, whole(), given, 3, 1))
    stock.add(Finished(study, replace(whole(), asked=2), given, 0, 0))
    stock.add(Finished(study, replace(whole(), stuck="for 300 s"), given, 0, 0))
    assert (ours.violated, stock.violated) == (0, 3)
    show([ours, stock], Console(width=120))
    shown = capsys.readouterr().out
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:4]]
        for line in shown.splitlines()
        if len(cells := line.split("│")) == 5
    }
    assert rows["trials missing, or beyond those asked for"] == ["0", "2"]
    assert rows["studies stuck"] == ["0", "1"] and rows["all"] == ["0", "3"]
    assert rows["driver"] == ["2 (1 ending, 1 starting)", "4 (2 ending, 2 starting)"]
    assert rows["worker"] == ["1 (1 loading)", "2 (2 loading)"]
    assert rows["disk"] == ["skipped", "0"] and rows["epochs trained again"] == ["3", "0"]
    assert "stock: studies stuck: 1\n  small: for 300 s" in shown
    assert "ours: no disk faults: must be superuser" in shown
