"""A nested study as a user starts it: stopped after its first outer fold and started again, its
test parts unseen before they are scored, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import ROOT, Run, execute
from tests.commands.test_bad_input import SEARCH, SMALL, refused
from tests.commands.test_folds import make_noise

pytestmark = pytest.mark.long

FLAGS = [*SMALL, "--weights", "none", "--tuning", "frozen", "--epochs", "2", "--trials", "2"]
FLAGS += ["--pruner", "none", "--concurrent", "1", "--workers", "1"]


@pytest.fixture(scope="module")
def home(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of this file are: they share prepared data."""
    made = tmp_path_factory.mktemp("nested")
    shutil.copytree(prepared, made / "runs")
    return made


def search(corpus: Path, *words: str) -> list[str]:
    return [str(ROOT / "search/run.py"), "--task", f"demo:{corpus}", *FLAGS, *words]


def read(home: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / name / "nested.json").read_text())
    return found


def figures(home: Path, name: str) -> dict[str, Any]:
    """All that must not depend on what happened to it."""
    found = read(home, name)
    folds = [{k: v for k, v in fold.items() if k != "study"} for fold in found["folds"]]
    return {"folds": folds, "agreement": found["agreement"], "pooled": found["pooled"]}


@pytest.fixture(scope="module")
def undisturbed(home: Path, corpus: Path) -> str:
    """What a nested study prints to which nothing happens."""
    done = execute(search(corpus, "--study", "u", "--nested", "2"), home)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_stopped_after_its_first_outer_fold_it_goes_on(
    home: Path, corpus: Path, undisturbed: str
) -> None:
    words = search(corpus, "--study", "d", "--nested", "2")
    errors = home / "err.txt"
    with errors.open("wb") as err:
        command = [sys.executable, *words]
        process = subprocess.Popen(command, cwd=home, stderr=err, start_new_session=True)
    deadline = time.monotonic() + 400
    while errors.read_text().count("the first ones are starting") < 2:
        assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM, errors.read_text()
    so_far = read(home, "d")
    assert (so_far["state"], len(so_far["folds"])) == ("PAUSED", 1)
    assert "1 of 2 outer folds: outer fold 2: " in so_far["reason"]
    assert so_far["reason"].endswith(" of 2 trials: stopped by a signal")
    first = home / "runs" / "d-outer-1"
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    # Its name alone goes on.
    done = execute([words[0], "--study", "d"], home)
    assert done.returncode == 0, done.stderr
    assert "outer fold 1 of 2, tests" in done.stderr and ": done before" in done.stderr
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == before
    assert figures(home, "d") == figures(home, "u")
    assert "nested study d: 2 of 2 outer folds" in done.stdout
    with sqlite3.connect(home / "runs" / "mlflow.db") as database:
        ((status, uar),) = database.execute(
            "select r.status, m.value from runs r join latest_metrics m using (run_uuid)"
            " where r.name = 'd' and m.key = 'test/uar'"
        ).fetchall()
        outer = database.execute(
            "select distinct s.value, t.value from tags t join tags s using (run_uuid)"
            " join tags n using (run_uuid) where t.key = 'outer' and s.key = 'fdan.study'"
            " and (n.key, n.value) = ('fdan.nested', 'd') order by 1"
        ).fetchall()
    assert (status, uar) == ("FINISHED", read(home, "d")["pooled"]["uar"])
    assert outer == [("d-outer-1", "1/2"), ("d-outer-2", "2/2")], "every run of its studies"


def test_each_speaker_was_tested_by_a_study_that_never_heard_it(
    home: Path, corpus: Path, undisturbed: str
) -> None:
    everybody, tested = {p.name for p in (corpus / "AudioData").iterdir()}, []
    for fold in read(home, "u")["folds"]:
        result = json.loads((home / "runs" / fold["study"] / "result.json").read_text())
        parts = {f"{p['modality']} {p['part']}": set(p["speakers"]) for p in result["parts"]}
        assert parts["acoustic test"] == set(fold["speakers"])
        for part in ("acoustic train", "acoustic validation", "visual train"):
            assert parts[part] and not parts[part] & parts["acoustic test"]
        assert all(check["ok"] for check in result["checks"])
        tested += fold["speakers"]
    assert sorted(tested) == sorted(everybody)
    assert f"outer test:    UAR {read(home, 'u')['pooled']['uar']:.4f}" in undisturbed


def test_what_is_said_of_it(home: Path, corpus: Path, undisturbed: str) -> None:
    def said(*words: str) -> str:
        done = execute([*words], home, COLUMNS="160")
        assert done.returncode == 0, done.stderr
        return done.stdout

    status = said("-m", "search", "status", "u")
    assert "2 of 2 done" in status and "--nested 2" in status
    assert json.loads(said("-m", "search", "status", "u", "--json"))["done"] == 2
    assert "2/2 folds" in said("-m", "search", "list")
    assert "nested.html" in said("-m", "tracking", "report", "runs/u", "--open", "no")
    planned = said(*search(corpus, "--study", "new", "--nested", "loso", "--estimate"))
    assert "all 4 one after another: about " in planned
    assert "4 outer folds (--nested loso), 4 left" in planned and "8 trials in all" in planned
    assert "outer fold 3 tests CN 7; 21 others are searched on" in planned
    assert not (home / "runs" / "new").exists()


def test_a_poisoned_test_part_changes_nothing_that_is_searched(
    home: Path, corpus: Path, undisturbed: str
) -> None:
    """The first outer fold's search, with noise in place of what its test speakers say."""
    copy = Path(shutil.copytree(corpus, home / "poisoned" / "demo"))
    tested = read(home, "u")["folds"][0]["speakers"]
    for speaker in tested:
        for file in (copy / "AudioData" / speaker).glob("*.wav"):
            make_noise(file)
    done = execute(search(copy, "--study", "poisoned", "--outer", "1/2", "--score-test"), home)
    assert done.returncode == 0, done.stderr
    whole, poisoned = (
        json.loads((home / "runs" / name / "result.json").read_text())
        for name in ("u-outer-1", "poisoned")
    )
    for result in (whole, poisoned):
        assert result["origin"]["split"]["outer"] == "1/2"
        assert set(result["parts"][3]["speakers"]) == set(tested)
    assert whole["origin"]["data"] != poisoned["origin"]["data"]
    values, others = ([(t["value"], t["values"]) for t in r["trials"]] for r in (whole, poisoned))
    assert values == others and len(values) == 2
    assert whole["yardsticks"] == poisoned["yardsticks"]
    assert whole["test"]["uar"] != poisoned["test"]["uar"], "the noise is there"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--nested", "9", "--dry-run"],
            "9 outer folds of 4 speakers (AD, BI, CN, DS): use at most 4, or --nested loso",
        ),
        (["--nested", "2", "--protocol", "official"], "use --protocol speaker, or --protocol"),
        (["--nested", "2", "--promote"], "leave out --promote"),
    ],
)
def test_what_is_refused(run: Run, corpus: Path, words: list[str], line: str) -> None:
    assert line in refused(run, *SEARCH, "--task", f"demo:{corpus}", *FLAGS, *words)
