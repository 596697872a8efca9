"""A study's events as MLflow has them, also where a driver died before it could record one."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from fdan.errors import DiskFull
from search.callbacks.mlflow import MlflowCallback, TrialRuns
from search.callbacks.trial_figures import TrialFigures
from search.optimizer.space_file import parse_space
from search.study.events import REASON, StudyCallback, TrialOutcome
from search.study.status import running_trials
from search.study.trial_controller import TrialController
from search.worker.messages import EpochResult, TrialFailed, WorkerLost
from search.worker.trial_folder import EpochLog, trial_folder
from tests.search.conftest import KNOWN, SPACE, MakeStudy, controller_of
from tests.tracking.history import history
from tracking.tracker import Tracker

EPOCHS = 3
SEARCHED = parse_space(SPACE, KNOWN)
COMPLETE = TrialState.COMPLETE


@pytest.fixture
def drawing() -> Iterator[TrialFigures]:
    with TrialFigures() as made:
        yield made


def of(epoch: int) -> EpochResult:
    return EpochResult(epoch, epoch / 10, {"train/loss": 1 / epoch}, [[1] * 7] * 7)


class Dies(StudyCallback):
    """The driver's end, just after Optuna heard that a trial ended and before anybody else did."""

    number: int | None = None

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        if outcome.number == self.number:
            raise SystemExit


class Fleeting(MlflowCallback):
    """The machine ends while figures are being drawn, and before the spool is on its disk: what
    Optuna has of trial 1's last epoch, the spool has not."""

    def draw(self, trial: TrialOutcome, settings: Mapping[str, Any]) -> None:
        pass

    def on_epoch(self, number: int, report: EpochResult) -> None:
        if (number, report.epoch) != (1, EPOCHS):
            super().on_epoch(number, report)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. Making one takes seconds, copying one does not."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("template") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, template: Path) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")


@contextlib.contextmanager
def tracker(root: Path) -> Iterator[Tracker]:
    with Tracker(root / "spool", f"sqlite:///{root / 'mlflow.db'}", "tracked") as made:
        made.open_study("small", {}, {})
        yield made


def ends(controller: TrialController, number: int, root: Path) -> None:
    """A trial from its first epoch to its end; its worker writes each epoch down."""
    trial_folder(root, number).mkdir(parents=True, exist_ok=True)
    with contextlib.closing(EpochLog(trial_folder(root, number))) as log:
        for epoch in range(1, EPOCHS + 1):
            log.append(of(epoch))
            controller.record(number, of(epoch))
    controller.release(number)


def recorded(root: Path) -> int:
    return sum(len(file.read_bytes().splitlines()) for file in (root / "spool").glob("*.jsonl"))


def test_what_a_dead_driver_did_not_record_is_caught_up_once(
    make_study: MakeStudy, drawing: TrialFigures, tmp_path: Path
) -> None:
    with tracker(tmp_path) as first:
        tracked = MlflowCallback(first, drawing, tmp_path, TrialRuns({"batch": 8}, {"data": "d"}))
        controller = controller_of(make_study(SEARCHED), SEARCHED, EPOCHS, tracked)
        ends(controller, controller.start_new().number, tmp_path)
        tracked.finish()
        dies, fleeting = (
            Dies(),
            Fleeting(first, drawing, tmp_path, TrialRuns({"batch": 8}, {"data": "d"})),
        )
        controller = controller_of(make_study(SEARCHED), SEARCHED, EPOCHS, dies, fleeting)
        for _ in range(4):
            controller.start_new()
        first.open_run("7", {"batch": 8}, {})  # Optuna's storage was set back to a backup
        controller.interrupt(2, TrialFailed("diverged"))
        controller.release(2)
        ends(controller, 3, tmp_path)
        controller.record(4, of(1))
        dies.number = 1
        with pytest.raises(SystemExit):
            ends(controller, 1, tmp_path)
        fleeting.finish()
        assert first.open_trials() == {1, 4, 7}
        assert first.files["3"] == set()

    again = make_study(SEARCHED)
    figures = {"config.json", "learning_curve.png", "confusion_matrix.png"}
    with tracker(tmp_path) as second:
        tracked = MlflowCallback(second, drawing, tmp_path, TrialRuns({"batch": 8}, {"data": "d"}))
        tracked.catch_up(again.get_trials())
        assert second.open_trials() == {4}, "it goes on"
        tracked.finish()
        assert [second.files[str(number)] for number in (0, 1, 3)] == [figures] * 3
        assert (second.files["2"], second.files["4"]) == ({"config.json"}, set())
        epochs = [(e, {"train/loss": 1 / e, "value": e / 10}) for e in range(1, EPOCHS + 1)]
        assert [history(second, number) for number in (0, 1, 3)] == [epochs] * 3
        before = recorded(tmp_path)
        assert second.drain(60)
    with tracker(tmp_path) as third:
        before += 1  # the study's opening
        tracked = MlflowCallback(third, drawing, tmp_path, TrialRuns({"batch": 8}, {"data": "d"}))
        tracked.catch_up(again.get_trials())
        tracked.finish()
        assert recorded(tmp_path) == before, "nothing is recorded twice"
        assert third.drain(60)

    with sqlite3.connect(tmp_path / "mlflow.db") as mlflow:
        status = dict(mlflow.execute("select name, status from runs where name like 'trial-%'"))
        reasons = dict(
            mlflow.execute(
                "select r.name, t.value from tags t join runs r using (run_uuid)"
                " where t.key = 'fdan.reason'"
            )
        )
    assert status == {
        "trial-0000": "FINISHED",
        "trial-0001": "FINISHED",
        "trial-0002": "FAILED",
        "trial-0003": "FINISHED",
        "trial-0004": "RUNNING",
        "trial-0007": "FAILED",
    }
    for trial in again.trials:
        assert reasons[f"trial-{trial.number:04d}"] == trial.user_attrs.get(REASON, "")
    assert reasons["trial-0007"] == "not in Optuna's storage"


@pytest.mark.parametrize("room", [0, 1, 2], ids=lambda room: f"room for {room}")
def test_figures_for_which_there_was_no_room_are_drawn_again(
    room: int,
    make_study: MakeStudy,
    drawing: TrialFigures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk takes some of a trial's files, the smaller ones first."""
    one = make_study(SEARCHED)
    with tracker(tmp_path) as first, monkeypatch.context() as disk:
        taken: list[str] = []
        artifact = first.log_artifact

        def full(run: str, file: Path) -> None:
            if len(taken) == room:
                raise DiskFull(file)
            taken.append(file.name)
            artifact(run, file)

        disk.setattr(first, "log_artifact", full)
        tracked = MlflowCallback(first, drawing, tmp_path, TrialRuns({}, {}))
        controller = controller_of(one, SEARCHED, EPOCHS, tracked)
        with pytest.raises(DiskFull):
            ends(controller, controller.start_new().number, tmp_path)
            tracked.finish()
        assert first.files["0"] == set(taken) and len(taken) == room
    with tracker(tmp_path) as second:
        tracked = MlflowCallback(second, drawing, tmp_path, TrialRuns({}, {}))
        tracked.catch_up(one.get_trials())
        tracked.finish()
        assert second.files["0"] == {"config.json", "learning_curve.png", "confusion_matrix.png"}


def test_a_trial_that_changes_hands_is_one_run_that_says_so(
    make_study: MakeStudy, drawing: TrialFigures, tmp_path: Path
) -> None:
    one = make_study(SEARCHED)
    with tracker(tmp_path) as first:
        tracked = MlflowCallback(first, drawing, tmp_path, TrialRuns({}, {}))
        controller = controller_of(one, SEARCHED, EPOCHS, tracked)
        number = controller.start_new().number
        controller.record(number, of(1))
        for _ in range(2):
            controller.interrupt(number, WorkerLost("the worker died"))
            controller.release(number)
            controller.start()
        # The driver dies between two words: MLflow's records have an epoch that Optuna has not.
        tracked.on_epoch(number, of(2))
        controller.pause_all("stopped by the user")
        tracked.finish()
        assert first.open_trials() == set()
    again = make_study(SEARCHED)
    with tracker(tmp_path) as second:
        tracked = MlflowCallback(second, drawing, tmp_path, TrialRuns({}, {}))
        tracked.catch_up(again.get_trials())
        controller = controller_of(again, SEARCHED, EPOCHS, tracked)
        controller.resume(running_trials(again)[0], {1: of(1), 2: of(2)})
        controller.start()
        assert second.open_trials() == {number}
        for epoch in (2, 3):
            controller.record(number, of(epoch))
        controller.release(number)
        tracked.finish()
        assert second.drain(60)

    with sqlite3.connect(tmp_path / "mlflow.db") as mlflow:
        runs = mlflow.execute("select name, status from runs where name like 'trial-%'").fetchall()
        assert runs == [("trial-0000", "FINISHED")]
        tags = dict(
            mlflow.execute(
                "select t.key, t.value from tags t join runs r using (run_uuid)"
                " where r.name = 'trial-0000'"
            )
        )
        steps = mlflow.execute("select step, value from metrics where key = 'value'").fetchall()
    assert (tags["fdan.state"], tags["fdan.reason"]) == ("COMPLETE", "epoch 3: value 0.300")
    assert (tags["interruptions"], tags["last_interruption"]) == ("2", "the worker died")
    assert sorted(steps) == [(epoch, epoch / 10) for epoch in (1, 2, 3)], "each epoch once"


def test_a_resting_trial_says_so(
    make_study: MakeStudy, drawing: TrialFigures, tmp_path: Path
) -> None:
    with tracker(tmp_path) as made:
        tracked = MlflowCallback(made, drawing, tmp_path, TrialRuns({}, {}))
        controller = controller_of(make_study(SEARCHED), SEARCHED, EPOCHS, tracked)
        controller.start_new()
        controller.pause_all("stopped by a signal")
        tracked.finish()
        made.close_run("study", "PAUSED", "0 of 1 trials")
        assert made.drain(60)
    with sqlite3.connect(tmp_path / "mlflow.db") as mlflow:
        found = mlflow.execute(
            "select r.name, r.status, t.value from tags t join runs r using (run_uuid)"
            " where t.key = 'fdan.reason' order by r.name"
        ).fetchall()
    assert found == [
        ("small", "KILLED", "0 of 1 trials"),
        ("trial-0000", "KILLED", "stopped by a signal: the same command goes on with it"),
    ]


def test_figures_of_a_driver_that_was_killed_are_swept(
    drawing: TrialFigures, tmp_path: Path
) -> None:
    with tracker(tmp_path) as made:
        tracked = MlflowCallback(made, drawing, tmp_path, TrialRuns({}, {}))
        tracked.on_trial_start(0, {"lr": 0.1})
        tracked.on_trial_end(TrialOutcome(0, COMPLETE, "done", (of(1),)))
        for _, drawn in tracked._drawn:
            drawn.result(60)
        left = [file for file in tmp_path.glob("drawing/0/*") if file.suffix == ".png"]
        assert len(left) == 2, "drawn, and not with the tracker yet"
        MlflowCallback(made, drawing, tmp_path, TrialRuns({}, {}))
        assert not left[0].exists()
        tracked = MlflowCallback(made, drawing, tmp_path, TrialRuns({}, {}))
        tracked.on_trial_start(1, {"lr": 0.1})
        tracked.on_trial_end(TrialOutcome(1, COMPLETE, "done", (of(1),)))
        tracked.finish()
        assert len(made.files["1"]) == 3
    assert not (tmp_path / "drawing").exists()
