"""One study that everything happens to, in the order of the tests: Ray breaks down, all processes
are asked to end, a worker is killed, the driver is killed. The same command goes on each time.
"""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from fdan.data.open_task import open_task
from fdan.inference.model_folder import read_model
from search.cli.main import parse
from search.config.spec import resolve
from search.pipeline import make_worker_data
from search.study.events import REASON
from search.study.storage import open_storage_read_only
from search.study.storage_retry import StorageError
from search.worker.messages import EpochResult
from search.worker.trainable import TrialContext
from search.worker.training import make_trainer
from tests.commands.conftest import ROOT

pytestmark = pytest.mark.long

TRIALS, EPOCHS = 3, 80
FLAGS = ["--study", "s", "--trials", str(TRIALS), "--concurrent", "2", "--epochs", str(EPOCHS)]
FLAGS += ["--pruner", "none", "--backbone", "resnet18", "--tuning", "frozen", "--weights", "none"]
FLAGS += ["--spectrogram-size", "32", "--face-size", "32", "--workers", "1", "--folds", "none"]
MARK = "FDAN_SURVIVAL"


@dataclass
class Home:
    """Where the study is, and what was seen of it."""

    path: Path
    flags: list[str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None
    temporary: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path / "runs" / "s"

    def start(self) -> None:
        """The command, as a user starts it; all that it starts is in its process group."""
        with (self.path / "err.txt").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "search" / "run.py"), *self.flags],
                cwd=self.path,
                env={**os.environ, MARK: self.mark},
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )

    def said(self) -> str:
        return (self.path / "err.txt").read_text()

    def wait_for(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 250
        while not what():
            assert self.process is not None
            assert self.process.poll() is None, f"it ended by itself:\n{self.said()}"
            assert time.monotonic() < deadline, f"nothing happened:\n{self.said()}"
            time.sleep(0.1)

    def ends(self) -> tuple[int, str, str]:
        """Its exit code and what it printed."""
        assert self.process is not None
        out = self.process.communicate(timeout=280)[0]
        return self.process.returncode, out.decode(), self.said()

    def trials(self) -> list[FrozenTrial]:
        """Read off the journal, which nobody is kept from writing meanwhile."""
        try:
            journal = open_storage_read_only(None, self.folder)
            return optuna.load_study(study_name="s", storage=journal).trials
        except (StorageError, KeyError):
            return []

    def epochs(self) -> int:
        """That the study has, of all trials."""
        return sum(len(trial.intermediate_values) for trial in self.trials())

    def processes(self, name: bytes = b"") -> dict[int, list[str]]:
        """What runs of all that was started, Ray's processes included: number -> command line."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes()
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if ours and words != [b""] and name in words[0]:
                found[int(entry.name)] = [word.decode() for word in words]
        return found

    def left_behind(self) -> dict[int, list[str]]:
        """What still runs a while after the driver: Ray's own end a few seconds after it, which on
        a busy machine are many."""
        deadline = time.monotonic() + 90
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        return self.processes()

    def mlflow(self, query: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.path / "runs" / "mlflow.db", timeout=20) as database:
            return database.execute(query).fetchall()

    def runs(self) -> dict[str, tuple[str, str, str]]:
        """Name -> status, state and reason; a name twice is a failure."""
        rows = self.mlflow(
            "select r.name, r.status, s.value, w.value from runs r"
            " join tags s on s.run_uuid = r.run_uuid and s.key = 'fdan.state'"
            " join tags w on w.run_uuid = r.run_uuid and w.key = 'fdan.reason'"
        )
        assert len({name for name, *_ in rows}) == len(rows), rows
        return {name: (status, state, reason) for name, status, state, reason in rows}


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("survival"), [*FLAGS, "--task", f"demo:{corpus}"])
    yield made
    for number in made.processes():
        os.kill(number, signal.SIGKILL)


def clean(text: str) -> bool:
    """Lines for a user, none of Ray's own."""
    marks = ("Traceback", "core_worker", "raylet.", "rpc_client", "SIGTERM", "***", "Error")
    return not any(mark in text for mark in marks)


def test_ray_breaks_down_and_another_one_is_started(home: Home) -> None:
    home.start()
    home.wait_for(lambda: home.epochs() >= 20)
    ((raylet, words),) = home.processes(b"raylet/raylet").items()
    home.temporary = [Path(w.partition("=")[2]) for w in words if w.startswith("--temp_dir=")]
    os.kill(raylet, signal.SIGKILL)
    home.wait_for(lambda: "Ray's raylet ended (exit code -9): another Ray is" in home.said())
    before = home.epochs()
    home.wait_for(lambda: home.epochs() >= before + 10)
    said = home.said()
    for number in (0, 1):
        assert f"trial {number}: Ray's raylet ended (exit code -9); another worker goes" in said
    assert clean(said), said
    assert [trial.state for trial in home.trials()] == [TrialState.RUNNING] * 2
    assert len(home.processes(b"raylet/raylet")) == 1


def test_asked_to_end_it_lets_its_trials_rest(home: Home) -> None:
    """As systemd, a batch system or `timeout` does it: SIGTERM to all processes at once."""
    process = home.process
    assert process is not None
    os.killpg(process.pid, signal.SIGTERM)
    asked = time.monotonic()
    code, out, said = home.ends()
    assert code == 143, said
    assert time.monotonic() - asked < 45
    assert clean(said), said
    assert "stopping: the same command continues the study" in said
    assert "study s: no trials (stopped by a signal)" in out
    assert "2 trials rest at their newest checkpoint: the same command goes on" in out
    assert [trial.state for trial in home.trials()] == [TrialState.RUNNING] * 2
    reason = "stopped by a signal: the same command goes on with it"
    assert home.runs() == {
        "s": ("KILLED", "PAUSED", f"0 of {TRIALS} trials: stopped by a signal"),
        "trial-0000": ("KILLED", "PAUSED", reason),
        "trial-0001": ("KILLED", "PAUSED", reason),
    }
    assert home.left_behind() == {}


def test_a_worker_and_then_the_driver_are_killed(home: Home) -> None:
    before = home.epochs()
    assert before >= 30
    home.start()
    home.wait_for(lambda: home.epochs() >= before + 10)
    assert "going on with the trials that were under way: 0, 1" in home.said()
    workers = home.processes(b"ray::ImplicitFunc")
    assert len(workers) == 2
    os.kill(min(workers), signal.SIGKILL)
    home.wait_for(lambda: "ended unexpectedly; another worker goes on" in home.said())
    before = home.epochs()
    home.wait_for(lambda: home.epochs() >= before + 10)
    # What was PAUSED is sent as RUNNING as soon as MLflow is there.
    home.wait_for(lambda: "PAUSED" not in {state for _, state, _ in home.runs().values()})
    assert home.process is not None
    home.process.kill()
    code, out, said = home.ends()
    assert (code, out) == (-signal.SIGKILL, "")
    assert clean(said), said
    assert TrialState.FAIL not in {trial.state for trial in home.trials()}
    assert {state for _, state, _ in home.runs().values()} <= {"RUNNING", "COMPLETE"}


def test_it_comes_to_its_end(home: Home) -> None:
    """At once, beside whatever of the last Ray is still about to end."""
    home.start()
    code, out, said = home.ends()
    assert code == 0, said
    assert clean(said), said
    assert f"study s: {TRIALS} COMPLETE" in out
    assert home.left_behind() == {}
    assert home.temporary and not any(path.exists() for path in home.temporary)
    with (home.folder / "figures" / "trials.csv").open() as table:
        assert [row["state"] for row in csv.DictReader(table)] == ["COMPLETE"] * TRIALS


def test_every_trial_is_there_once_and_every_epoch_once(home: Home) -> None:
    trials = home.trials()
    assert [(trial.number, trial.state) for trial in trials] == [
        (number, TrialState.COMPLETE) for number in range(TRIALS)
    ]
    assert trials[0].params["lr"] == 1e-3 and trials[1].params["lr"] == 1e-2, "the known good ones"
    found: dict[str, dict[int, float]] = {}
    rows = home.mlflow(
        "select r.name, m.step, m.value from metrics m join runs r using (run_uuid)"
        " where m.key = 'value'"
    )
    for name, step, value in rows:
        steps = found.setdefault(name, {})
        assert step not in steps, f"{name} has epoch {step} twice"
        steps[int(step)] = float(value)
    runs = home.runs()
    assert runs.pop("s")[:2] == ("FINISHED", "COMPLETE")
    for one in trials:
        name = f"trial-{one.number:04d}"
        assert runs.pop(name) == ("FINISHED", "COMPLETE", one.user_attrs[REASON])
        assert list(one.intermediate_values) == list(range(1, EPOCHS + 1))
        assert found.pop(name) == one.intermediate_values
    assert (runs, found) == ({}, {})
    times: dict[str, str] = dict(
        home.mlflow(
            "select r.name, t.value from tags t join runs r using (run_uuid)"
            " where t.key = 'interruptions'"
        )
    )
    assert set(times) == {"trial-0000", "trial-0001"}


def test_its_trials_are_what_they_would_have_been(home: Home, tmp_path: Path) -> None:
    """The first one changed hands four times or five. Trained in one go it is the same to the last
    bit, and the study's best model is of its best trial."""
    trials = home.trials()
    words = ["--runs", str(home.path / "runs"), *home.flags]
    spec = resolve(parse(words).options)
    task, _ = open_task(spec.data, spec.settings)
    reports: list[EpochResult] = []
    make_trainer(make_worker_data(spec, task))(
        TrialContext(0, trials[0].params, 0, 1, folder=tmp_path), reports.append
    )
    assert {r.epoch: r.value for r in reports} == trials[0].intermediate_values
    losses = home.mlflow(
        "select m.step, m.value from metrics m join runs r using (run_uuid)"
        " where m.key = 'train/loss' and r.name = 'trial-0000' order by m.step"
    )
    assert [(r.epoch, r.metrics["train/loss"]) for r in reports] == losses
    best = max(trials, key=lambda one: (one.value, -one.number))
    assert read_model(home.folder / "best").facts["trial"] == best.number
    kept = [path.parent.name for path in home.folder.glob("trials/*/checkpoint")]
    assert kept == [f"{best.number:04d}"]
