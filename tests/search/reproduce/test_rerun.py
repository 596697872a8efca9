"""Trials of a real study, trained again from what MLflow holds: equal to the last digit, or a
reason in one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fdan.data.store import MANIFEST
from search.__main__ import main
from search.cli import main as command
from search.reproduce.comparison import compare
from search.results import provenance
from tests.search.conftest import SMALL

pytestmark = pytest.mark.long

EPOCHS, TRIALS = 6, 4


@dataclass
class Home:
    """Where a study was made: its MLflow database, its stores."""

    runs: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.runs / 'mlflow.db'}"

    @property
    def stores(self) -> list[Path]:
        return sorted(file.parent for file in (self.runs / "stores").glob(f"*/{MANIFEST}"))

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.runs / "mlflow.db") as database:
            return database.execute(query, values).fetchall()

    def ids(self, state: str) -> list[str]:
        """Of the runs that ended so; "study" is the parent."""
        name, value = ("fdan.trial", state) if state == "study" else ("fdan.state", state)
        rows = self.sql(
            "select t.run_uuid from tags t join tags s using (run_uuid) where t.key = ?"
            " and t.value = ? and s.key = 'fdan.stage' and (s.value = 'search' or ? = 'study')",
            *(name, value, state),
        )
        return sorted({row[0] for row in rows})

    def drop(self, run: str) -> None:
        """The run is deleted, as MLflow's pages do it."""
        self.sql("update runs set lifecycle_stage = 'deleted' where run_uuid = ?", run)


@pytest.fixture(scope="module")
def made(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Home:
    """A small study with complete and pruned trials, each in its worker's own process."""
    request.getfixturevalue("ray_here")
    runs = tmp_path_factory.mktemp("made") / "runs"
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", "--workers", "1", *SMALL]
    flags += ["--study", "s", "--epochs", str(EPOCHS), "--trials", str(TRIALS)]
    # One at a time: what is pruned must not hang on which of two trials was the faster.
    flags += ["--concurrent", "1", "--pruner", "halving", "--seed", "2"]
    assert command.main(flags) == 0
    home = Home(runs)
    assert home.ids("COMPLETE") and home.ids("PRUNED"), "the study should have both"
    return home


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    """A copy of its database, to be spoilt; stores and features stay where they are."""
    (tmp_path / "here").mkdir()
    shutil.copyfile(made.runs / "mlflow.db", tmp_path / "here" / "mlflow.db")
    return Home(tmp_path / "here")


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rerun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Say:
    """The command's exit code, and what it prints, from an empty folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def run(home: Home, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["rerun", *words, "--tracking-uri", home.uri])
        out, err = capsys.readouterr()
        assert list((tmp_path / "empty").iterdir()) == []
        return code, out, err

    return run


def refused(said: tuple[int, str, str]) -> str:
    code, out, err = said
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
def test_every_trial_to_the_last_digit(made: Home, rerun: Say, state: str) -> None:
    threads = torch.get_num_threads()
    for run in made.ids(state):
        [(epochs,)] = made.sql("select max(step) from metrics where run_uuid = ?", run)
        [(names,)] = made.sql(
            "select count(distinct key) from metrics where run_uuid = ? and key != 'time/epoch_s'",
            run,
        )
        code, out, err = rerun(made, run)
        assert code == 0, out + err
        noun = "epoch" if epochs == 1 else "epochs"
        line = f"epoch {epochs} of {epochs}: all {names} metrics of {epochs} {noun} equal"
        assert out == f"{line} to the last digit\n"
        assert f"of study s: {state}, {epochs} epochs recorded, seed 2, 1 thread(s)" in err
        assert (epochs == EPOCHS) == (state == "COMPLETE")
        assert names == 10
    assert torch.get_num_threads() == threads


def test_a_last_digit_that_differs_is_seen(home: Home, rerun: Say) -> None:
    run = home.ids("COMPLETE")[0]
    where = "run_uuid = ? and key = 'train/lmmd' and step = 3"
    [(value,)] = home.sql(f"select value from metrics where {where}", run)
    home.sql(f"update metrics set value = ? where {where}", math.nextafter(value, 9), run)
    code, out, _ = rerun(home, run)
    assert code == 1
    assert out.startswith("1 of 10 metrics differ, first train/lmmd in epoch 3; the largest")
    assert repr(value) in out and repr(math.nextafter(value, 9)) in out
    code, out, _ = rerun(home, run, "--epochs", "2", "--json")
    assert code == 0, "the first two epochs are as they were"
    code, out, _ = rerun(home, run, "--json")
    found = json.loads(out)
    assert (code, found["equal"], found["epochs"], found["run"]) == (1, False, EPOCHS, run)
    [one] = found["largest"]
    assert (one["metric"], one["epoch"], one["here"]) == ("train/lmmd", 3, value)
    assert one["there"] == math.nextafter(value, 9)


def test_a_partial_check(made: Home, rerun: Say) -> None:
    run = made.ids("COMPLETE")[0]
    code, out, _ = rerun(made, run, "--epochs", "2")
    assert (code, out.partition(" equal")[0]) == (
        0,
        f"epoch 2 of {EPOCHS}: all 10 metrics of 2 epochs",
    )
    for number in (EPOCHS + 1, 0):
        assert f"has {EPOCHS} epochs" in refused(rerun(made, run, "--epochs", str(number)))


def test_what_differs_is_said_before_it_starts(home: Home, rerun: Say) -> None:
    run = home.ids("PRUNED")[0]
    _, _, err = rerun(home, run)
    assert "torch" not in err
    for name, there in (("version.torch", "1.0"), ("cpu", "Z80"), ("git", "cafe")):
        home.sql("update tags set value = ? where key = ? and run_uuid = ?", there, name, run)
    home.sql("delete from tags where key = 'version.numpy' and run_uuid = ?", run)
    code, out, err = rerun(home, run)
    assert code == 0 and "equal to the last digit" in out, "only the words differ here"
    lines = [line.split() for line in err.splitlines()]
    assert ["torch", "recorded", "1.0,", "here", torch.__version__.split("+")[0]] in [
        [word.split("+")[0] for word in line] for line in lines
    ]
    assert f"CPU         recorded Z80, here {provenance.cpu()}" in err
    assert "recorded cafe" in err and "numpy       recorded unknown, here" in err
    assert "python" not in err


def test_a_run_stands_for_itself(made: Home, rerun: Say, tmp_path: Path) -> None:
    """Without the study's folder and the features that its trials shared; its stores moved."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "mlartifacts", "stores"):
        (shutil.copytree if (made.runs / name).is_dir() else shutil.copyfile)(
            made.runs / name, moved / name
        )
    away = made.runs.with_name("away")
    made.runs.rename(away)
    try:
        # MLflow's database names the folder of its artifacts.
        made.runs.mkdir()
        (away / "mlartifacts").rename(made.runs / "mlartifacts")
        home = Home(moved)
        run = home.ids("COMPLETE")[0]
        code, out, _ = rerun(home, run)
        assert code == 0 and "equal to the last digit" in out, "stores lie beside the database"
        elsewhere = tmp_path / "elsewhere"
        (moved / "stores").rename(elsewhere)
        line = refused(rerun(home, run))
        assert "which is not in" in line and "--stores" in line
        elsewhere.chmod(0o2775)
        before = os.umask(0o022)
        try:
            code, out, _ = rerun(home, run, "--stores", str(elsewhere))
        finally:
            assert os.umask(before) == 0o002, "the folder is a group's"
        assert code == 0 and "equal to the last digit" in out
        _spoil(elsewhere)
        line = refused(rerun(home, run, "--stores", str(elsewhere)))
        assert f"holds other data than run {run} was trained on" in line
    finally:
        (made.runs / "mlartifacts").rename(away / "mlartifacts")
        shutil.rmtree(made.runs)
        away.rename(made.runs)


def _spoil(stores: Path) -> None:
    """A store of other data under the same name."""
    manifest = next(stores.glob(f"*/{MANIFEST}"))
    held = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**held, "fingerprint": "0" * 64}))


def test_weights_that_are_others(home: Home, rerun: Say, tmp_path: Path) -> None:
    """Of a run whose backbones began from a file."""
    run, file = home.ids("COMPLETE")[0], tmp_path / "weights.pth"
    config = next(_artifacts(home, run).glob("config.json"))
    held = json.loads(config.read_text())
    before = config.read_bytes()
    machine = {**held["machine"], "weights": f"sha256 {'0' * 64}"}
    try:
        config.write_text(json.dumps({**held, "weights": str(file), "machine": machine}))
        assert "no such file" in refused(rerun(home, run))
        file.write_bytes(b"others")
        line = refused(rerun(home, run, "--weights", str(file)))
        assert f"holds other weights than run {run} began with" in line
    finally:
        config.write_bytes(before)


def _artifacts(home: Home, run: str) -> Path:
    [(uri,)] = home.sql("select artifact_uri from runs where run_uuid = ?", run)
    return Path(uri.removeprefix("file://"))


def test_what_is_no_trial(home: Home, rerun: Say) -> None:
    assert "no run of that id" in refused(rerun(home, "0" * 32))
    assert "no run of that id" in refused(rerun(home, "../up"))
    line = refused(rerun(home, home.ids("study")[0]))
    assert "is the run of study s itself: name one of its trials, such as " in line
    assert any(run in line for run in home.ids("COMPLETE"))
    first, second, third = [*home.ids("COMPLETE"), *home.ids("PRUNED")][:3]
    home.drop(first)
    assert f"mlflow runs restore --run-id {first}" in refused(rerun(home, first))
    home.sql("update tags set value='RUNNING' where key='fdan.state' and run_uuid=?", second)
    assert "has not ended yet" in refused(rerun(home, second))
    home.sql("delete from tags where key = 'fdan.trial' and run_uuid = ?", second)
    assert "is not a trial of fdan-search" in refused(rerun(home, second))
    home.sql("delete from metrics where run_uuid = ?", third)
    home.sql("delete from latest_metrics where run_uuid = ?", third)
    assert "has no epoch: " in refused(rerun(home, third))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "not a table of settings"),
        ("{}", "does not name the data that it was trained on"),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_that_is_damaged(
    home: Home, rerun: Say, content: str | None, words: str
) -> None:
    run = home.ids("COMPLETE")[0]
    config = _artifacts(home, run) / "config.json"
    before = config.read_bytes()
    try:
        config.unlink() if content is None else config.write_text(content)
        assert words in refused(rerun(home, run))
    finally:
        config.write_bytes(before)


def test_databases_that_are_none(rerun: Say, tmp_path: Path) -> None:
    """Nothing is made of them, and nothing in them."""
    absent = Home(tmp_path / "absent")
    assert "no such file" in refused(rerun(absent, "0" * 32))
    assert not absent.runs.exists()
    other = Home(tmp_path / "other")
    other.runs.mkdir()
    other.sql("create table trials (id int)")
    before = (other.runs / "mlflow.db").read_bytes()
    assert "is not an MLflow database" in refused(rerun(other, "0" * 32))
    assert (other.runs / "mlflow.db").read_bytes() == before
    (other.runs / "mlflow.db").write_text("not a database" * 99)
    assert "cannot be read" in refused(rerun(other, "0" * 32))


def test_the_default_is_the_environment_s_mlflow(
    made: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["rerun", made.ids("PRUNED")[0], "--epochs", "1"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert str(tmp_path / "runs" / "mlflow.db") in capsys.readouterr().err
    monkeypatch.chdir(made.runs.parent)
    assert main(words) == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    assert main(words) == 0


Metrics = Mapping[int, Mapping[str, float]]


@pytest.mark.parametrize(
    ("recorded", "repeated", "differing"),
    [
        ({1: {"a": 0.1}, 2: {"a": 0.2}}, {1: {"a": 0.1}}, []),
        ({1: {"a": 0.1}}, {1: {"a": math.nextafter(0.1, 1)}}, [(1, "a")]),
        ({1: {"a": 0.1, "b": 1.0}}, {1: {"a": 0.1}}, [(1, "b")]),
        ({1: {"a": 0.1}}, {1: {"a": 0.1, "b": 1.0}}, [(1, "b")]),
        ({2: {"a": 0.1}}, {1: {"a": 0.1}, 2: {"a": 0.1}}, [(1, "a")]),
        ({1: {"a": math.nan}}, {1: {"a": math.nan}}, []),
        ({1: {"a": math.nan}}, {1: {"a": 0.1}}, [(1, "a")]),
        ({1: {"a": 0.0}}, {1: {"a": -0.0}}, []),
    ],
)
def test_comparing(recorded: Metrics, repeated: Metrics, differing: list[tuple[int, str]]) -> None:
    comparison = compare(recorded, repeated)
    assert [(item.epoch, item.metric) for item in comparison.differing] == differing
    assert comparison.line.endswith("equal to the last digit") == (not differing)


def test_the_largest_difference_of_each_metric_comes_first() -> None:
    recorded = {1: {"a": 1.0, "b": 1.0, "c": 1.0}, 2: {"a": 1.0, "b": 1.0, "c": 1.0}}
    repeated = {1: {"a": 1.1, "b": 1.0, "c": 1.0}, 2: {"a": 1.2, "b": 3.0, "c": math.nan}}
    comparison = compare(recorded, repeated)
    largest = [(item.metric, item.epoch) for item in comparison.largest]
    assert largest == [("c", 2), ("b", 2), ("a", 2)]
    assert comparison.line.startswith("3 of 3 metrics differ, first a in epoch 1")
