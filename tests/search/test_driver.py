"""Real Ray, real Optuna, and a cheap function in the place of training."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import ray
from optuna.trial import TrialState
from ray.util.placement_group import placement_group_table

from fdan.errors import DeviceError, FdanError
from search import driver, storage
from search.bridge import Bridge, Closed
from search.driver import Resources, Stop
from search.report import Report
from search.searcher import OptunaSearcher
from search.space import Space
from search.study import REASON
from search.trial import Assignment
from tests.search.conftest import SPACE, MakeStudy

# Workers cannot import tests: what they need of this file travels with the function.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 6
ROOT = Path(__file__).parents[2]
ONE = Resources(cpus=1)


class Seen:
    """What a listener hears."""

    def __init__(self) -> None:
        self.pids: dict[int, set[float]] = {}
        self.ended: list[Closed] = []
        self.at_once = 0
        self._open: set[int] = set()

    def asked(self, number: int, params: object) -> None:
        self._open.add(number)
        self.at_once = max(self.at_once, len(self._open))

    def reported(self, number: int, report: Report) -> None:
        self.pids.setdefault(number, set()).add(report.metrics["pid"])

    def closed(self, trial: Closed) -> None:
        self._open.discard(trial.number)
        self.ended.append(trial)


def run(
    study: optuna.Study,
    searched: Space,
    train: Callable[[Assignment, Callable[[Report], None]], None],
    folder: Path,
    *,
    trials: int,
    pruner: str = "none",
    stop: Stop | None = None,
) -> Seen:
    seen = Seen()
    bridge = Bridge(study, searched, pruner=pruner, epochs=EPOCHS, listeners=[seen])
    driver.run(
        bridge,
        train,
        trials=trials,
        each=ONE,
        at_once=2,
        folder=folder,
        stop=stop or Stop(),
    )
    assert bridge.live == ()
    return seen


def curve(rate: float, epoch: int) -> float:
    return rate * (1 - math.exp(-epoch))


@pytest.mark.usefixtures("ray_here")
def test_every_end_of_a_trial(make_study: MakeStudy, small_space: Space, tmp_path: Path) -> None:
    """complete, nan, user's error, exception, dead worker, silent, in one study: each in Optuna's
    own state with its reason, and the study goes on to the end."""
    study = make_study(small_space)

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        kind = assignment.number
        for epoch in range(1, 7):
            value = curve(float(assignment.params["lr"]), epoch)
            if epoch == 3 and kind == 1:
                value = math.nan
            if epoch == 3 and kind == 2:
                raise FdanError("diverged: the loss is inf\nat step 7")
            if epoch == 3 and kind == 3:
                raise RuntimeError("a fault\nof two lines")
            if epoch == 3 and kind == 4:
                os._exit(1)
            if kind == 5:
                return
            report(Report(epoch, value, {"pid": os.getpid()}))

    seen = run(study, small_space, train, tmp_path, trials=9)
    trials = study.get_trials()
    reasons = [trial.user_attrs[REASON] for trial in trials]
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [t.state for t in trials] == [complete, fail, fail, fail, fail, fail, *[complete] * 3]
    assert reasons[1] == "epoch 3: value is nan"
    assert reasons[2] == "diverged: the loss is inf at step 7"
    assert reasons[3] == "RuntimeError: a fault of two lines"
    assert reasons[4].startswith("the worker died")
    assert reasons[5] == "ended without a report"
    for trial in trials:
        expected = {e: curve(trial.params["lr"], e) for e in range(1, 7)}
        reported = {0: 6, 5: 0}.get(trial.number, 2 if trial.state is fail else 6)
        assert trial.intermediate_values == {e: expected[e] for e in range(1, reported + 1)}
        if trial.state is complete:
            assert trial.value == expected[6]
            assert trial.user_attrs[REASON] == f"epoch 6: value {expected[6]:.3f}"
    # nan and a user's error cost the trial, not its worker; an exception and a death cost both.
    assert len(set.union(*(seen.pids[n] for n in (0, 1, 2)))) <= 2
    assert seen.at_once == 2
    assert "a fault" in (tmp_path / "trials" / "0003" / "error.txt").read_text()
    assert not (tmp_path / "tune").exists()
    assert all(pg["state"] == "REMOVED" for pg in placement_group_table().values())


@pytest.mark.usefixtures("ray_here")
def test_pruned_trials_and_reused_workers(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study = make_study(small_space, "tpe", "median", EPOCHS)

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        for epoch in range(1, 7):
            value = curve(float(assignment.params["lr"]), epoch)
            report(Report(epoch, value, {"pid": os.getpid()}))
        (assignment.folder / "done").touch()

    seen = run(study, small_space, train, tmp_path, trials=16, pruner="median")
    trials = study.get_trials()
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    assert len(trials) == 16
    assert pruned
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in pruned:
        assert trial.last_step is not None
        assert trial.last_step < EPOCHS
        assert trial.value == trial.intermediate_values[trial.last_step]
        assert f"epoch {trial.last_step}: " in trial.user_attrs[REASON]
        assert "below the median" in trial.user_attrs[REASON]
    done = {int(path.parent.name) for path in (tmp_path / "trials").glob("*/done")}
    assert done == {t.number for t in trials if t.state is TrialState.COMPLETE}
    assert len(set.union(*seen.pids.values())) <= 2
    assert all(len(pids) == 1 for pids in seen.pids.values())


@pytest.mark.usefixtures("free_ray")
def test_a_spent_budget_keeps_what_was_learnt(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study = make_study(small_space)

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        report(Report(1, 0.5, {"pid": os.getpid()}))
        time.sleep(300)

    class AfterBoth(Stop):
        def due(self) -> bool:
            if sum(bool(t.intermediate_values) for t in study.get_trials(deepcopy=False)) == 2:
                self.reason = self.reason or "the time budget is spent"
            return bool(self.reason)

    began = time.monotonic()
    run(study, small_space, train, tmp_path, trials=10, stop=AfterBoth())
    assert [t.state for t in study.trials] == [TrialState.PRUNED] * 2
    assert study.trials[0].user_attrs[REASON] == "epoch 1: the time budget is spent"
    assert time.monotonic() - began < 60


@pytest.mark.usefixtures("free_ray")
def test_a_listener_that_cannot_go_on_ends_the_study_in_a_line(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study = make_study(small_space)

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        report(Report(1, 0.5, {"pid": os.getpid()}))
        time.sleep(300)

    class Full(Seen):
        def reported(self, number: int, report: Report) -> None:
            raise FdanError("the disk is full")

        def closed(self, trial: Closed) -> None:
            raise FdanError("the disk is full")

    bridge = Bridge(study, small_space, pruner="none", epochs=EPOCHS, listeners=[Full()])
    began = time.monotonic()
    with pytest.raises(FdanError, match="the disk is full"):
        driver.run(bridge, train, trials=4, each=ONE, at_once=2, folder=tmp_path, stop=Stop())
    assert {trial.state for trial in study.trials} == {TrialState.FAIL}
    assert time.monotonic() - began < 60


def test_budget_is_counted_from_the_start() -> None:
    assert not Stop(None).due()
    assert not Stop(3600).due()
    stop = Stop(0.0)
    assert stop.due()
    assert (stop.reason, stop.code) == ("the time budget is spent", 0)


@pytest.mark.usefixtures("ray_here")
def test_what_does_not_fit_is_said() -> None:
    assert driver.concurrent(None, ONE, 20) == 2
    assert driver.concurrent(None, ONE, 1) == 1
    assert driver.concurrent(1, ONE, 20) == 1
    assert driver.concurrent(None, Resources(cpus=2), 20) == 1
    with pytest.raises(DeviceError, match="Ray sees 0 GPUs"):
        driver.concurrent(None, Resources(cpus=1, gpus=1), 20)
    with pytest.raises(driver.DriverError, match="Ray sees 2 CPUs"):
        driver.concurrent(None, Resources(cpus=3), 20)


def test_tune_pickles_an_empty_shell(make_study: MakeStudy, small_space: Space) -> None:
    bridge = Bridge(make_study(small_space), small_space, pruner="none", epochs=EPOCHS)
    searcher = OptunaSearcher(bridge, 3)
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(searcher))
    assert not hasattr(again, "_bridge")


INTERRUPTED = """
import sys, time
from pathlib import Path
import optuna
from search import driver, pruners, samplers, space, storage, study
from search.bridge import Bridge
from search.report import Report

def say(text):
    print(text, file=sys.stderr)

def main():
    def train(assignment, report):
        if assignment.number > 1:
            report(Report(1, 0.5))
            time.sleep(300)
        report(Report(3, 0.5))

    folder = Path(sys.argv[1])
    searched = space.parse(sys.argv[2], {"lr": 0, "layers": 1, "heads": 1})
    opened = study.open_study("s", storage.open_storage(None, folder),
        study.Identity({}, "", {}, {}, 0), samplers.make("random", searched, 0, 0),
        pruners.make("none", 3), searched)
    stop = driver.Stop()
    bridge = Bridge(opened, searched, pruner="none", epochs=3)
    with driver.signals(stop, say), driver.cluster(None, folder, 2):
        driver.run(bridge, train, trials=50, each=driver.Resources(), at_once=2, folder=folder,
                   stop=stop)
    sys.exit(stop.code)

main()
"""


def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    """As a terminal does it: SIGINT goes to the whole process group, Ray's processes included."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    folder = tmp_path / "study"
    command = [sys.executable, str(script), str(folder), SPACE]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while _waiting(folder) < 2 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.3)
            sent = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            output = process.communicate(timeout=60)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, output
    assert time.monotonic() - sent < 30
    assert "stopping: running trials end as FAIL" in output
    assert "Traceback" not in output
    trials = optuna.load_study(study_name="s", storage=storage.open_storage(None, folder)).trials
    assert [trial.state for trial in trials[:2]] == [TrialState.COMPLETE] * 2
    assert [trial.state for trial in trials[2:]] == [TrialState.FAIL] * 2
    assert {trial.user_attrs[REASON] for trial in trials[2:]} == {"stopped by the user"}
    assert not list(tmp_path.glob("**/tune"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_ask_first_and_then_insist(number: signal.Signals, code: int) -> None:
    stop, said = Stop(), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with driver.signals(stop, said.append):
        os.kill(os.getpid(), number)
        assert stop.due()
        assert stop.code == code
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _waiting(folder: Path) -> int:
    """Trials that have reported and sleep, read off the journal without opening the storage."""
    journal = folder / storage.JOURNAL
    if not journal.exists():
        return 0
    found = 0
    for line in journal.read_text().splitlines():
        entry = json.loads(line) if line.endswith("}") else {}
        found += entry.get("step") == 1 and "intermediate_value" in entry
    return found
