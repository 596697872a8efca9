"""Real Ray, real Optuna, and a cheap function in the place of training."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest
import ray
from optuna.trial import TrialState
from ray.util.placement_group import placement_group_table

from fdan.errors import DeviceError, DiskFull, FdanError
from search.callbacks.fail_fast import MAX_FIRST_FAILURES, FailFast
from search.config.spec import TrialResources
from search.optimizer.space import Space, Value
from search.study.active_trials import ActiveTrial
from search.study.events import REASON, TrialOutcome
from search.study.stopping import StopSignal
from search.tune.capacity import Capacity
from search.tune.grouping import SingleTrials, TuneRun
from search.tune.ray_session import ClusterError
from search.tune.searcher import OptunaSearcher
from search.tune.tune_run import find_capacity, run_trials
from search.worker.messages import ASSIGNMENTS, EpochResult, TrialFailed, WorkerLost
from search.worker.trainable import Train, TrialContext
from tests.search.conftest import ControllerOptions, Heard, MakeStudy, controller_of

pytestmark = pytest.mark.long

# Workers cannot import tests: what they need of this file travels with the function.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 6
ROOT = Path(__file__).parents[3]
ONE = TrialResources(cpus=1)
MUCH = Capacity(ONE, lambda: [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 9.0}}])


class Seen(Heard):
    """And which processes it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.pids: dict[int, set[float]] = {}
        self.at_once = 0
        self._open: set[int] = set()

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        super().on_trial_start(number, params)
        self._open.add(number)
        self.at_once = max(self.at_once, len(self._open))

    def on_epoch(self, number: int, report: EpochResult) -> None:
        super().on_epoch(number, report)
        self.pids.setdefault(number, set()).add(report.metrics["pid"])

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        super().on_trial_end(outcome)
        self._open.discard(outcome.number)


@dataclass(frozen=True)
class RunOptions:
    trials: int
    pruner: str = "none"
    stop: StopSignal = field(default_factory=StopSignal)
    epoch_timeout: float = 600.0
    fail_fast: bool = False
    at_once: int | None = None


def run(
    study: optuna.Study, searched: Space, train: Train, folder: Path, options: RunOptions
) -> Seen:
    """As a search does it: a spent budget ends what is under way, another stop lets it rest."""
    seen, stop = Seen(), options.stop
    callbacks = (seen, FailFast(stop, {})) if options.fail_fast else (seen,)
    limits = ControllerOptions(pruner=options.pruner, trials=options.trials)
    controller = controller_of(study, searched, EPOCHS, *callbacks, options=limits)
    run_trials(
        controller,
        train,
        TuneRun(
            capacity=find_capacity(ONE, options.at_once),
            epoch_timeout=options.epoch_timeout,
            folder=folder,
            stop=stop,
        ),
    )
    if stop.final:
        controller.stop_all(stop.reason)
    else:
        controller.pause_all(stop.reason)
    assert controller.active == ()
    return seen


def curve(rate: float, epoch: int) -> float:
    return rate * (1 - math.exp(-epoch))


@pytest.mark.usefixtures("ray_here")
def test_every_end_of_a_trial(make_study: MakeStudy, small_space: Space, tmp_path: Path) -> None:
    """complete, nan, user's error, exception, deadly, silent, in one study: each in Optuna's own
    state with its reason, and the study goes on to the end."""
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
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
                time.sleep(0.5)  # meanwhile the driver hears of epoch 2
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == 5:
                return
            report(EpochResult(epoch, value, {"pid": os.getpid()}))

    seen = run(study, small_space, train, tmp_path, RunOptions(trials=9))
    trials = study.get_trials()
    reasons = [trial.user_attrs[REASON] for trial in trials]
    complete, fail = TrialState.COMPLETE, TrialState.FAIL
    assert [t.state for t in trials] == [complete, fail, fail, fail, fail, fail, *[complete] * 3]
    assert reasons[1] == "epoch 3: value is nan"
    assert reasons[2] == "diverged: the loss is inf at step 7"
    assert reasons[3] == "RuntimeError: a fault of two lines"
    ended = "the worker's process ended unexpectedly"
    assert reasons[4] == f"{ended}: 3 times in a row in epoch 3"
    assert reasons[5] == "ended without a report"
    assert seen.interruptions == [(4, ended)] * 2
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
def test_a_trial_outlives_its_workers(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """Killed, out of memory, hanging: once each, in epoch 3. Another worker goes on."""
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        with (assignment.folder / "starts").open("a") as starts:
            starts.write(f"{assignment.start_epoch}\n")
        # This one keeps a checkpoint after each epoch.
        for epoch in range(assignment.start_epoch + 1, 7):
            if epoch == 3 and assignment.start_epoch == 0:
                time.sleep(0.5)  # meanwhile the driver hears of epoch 2
                if assignment.number == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if assignment.number == 1:
                    raise MemoryError
                if assignment.number == 2:
                    time.sleep(300)
            value = curve(float(assignment.params["lr"]), epoch)
            report(EpochResult(epoch, value, {"pid": os.getpid()}))

    seen = run(study, small_space, train, tmp_path, RunOptions(trials=4, epoch_timeout=4))
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert sorted(seen.interruptions) == [
        (0, "the worker's process ended unexpectedly"),
        (1, "out of memory"),
        (2, "no epoch for 4 s"),
    ]
    for trial in trials:
        starts = (tmp_path / "trials" / f"{trial.number:04d}" / "starts").read_text().split()
        assert starts == (["0", "2"] if trial.number < 3 else ["0"])
        expected = {e: curve(trial.params["lr"], e) for e in range(1, 7)}
        assert trial.intermediate_values == expected
        assert trial.value == expected[6]
    assert len(seen.pids[0]) == len(seen.pids[2]) == 2, "a process that died or hung is not reused"
    assert len(seen.ended) == len(trials)


def all_but(good: int) -> Train:
    """Trials that fail, but one."""

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        if assignment.number != good:
            raise FdanError(f"diverged: trial {assignment.number}")
        report(EpochResult(EPOCHS, 0.5, {"pid": os.getpid()}))

    return train


@pytest.mark.usefixtures("free_ray")
def test_a_study_whose_trials_all_fail_is_stopped(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study, stop = make_study(small_space), StopSignal()
    seen = run(
        study, small_space, all_but(99), tmp_path, RunOptions(trials=20, stop=stop, fail_fast=True)
    )
    assert (len(seen.ended), stop.code, stop.final) == (MAX_FIRST_FAILURES, 1, False)
    last = seen.ended[-1].number
    words = f"its first 5 trials all failed, the last one, {last}, with: diverged: trial {last};"
    assert stop.reason.startswith(words)
    running = [trial for trial in study.trials if trial.state is TrialState.RUNNING]
    assert sorted(seen.pauses) == [(trial.number, stop.reason) for trial in running]


@pytest.mark.usefixtures("ray_here")
def test_one_that_does_not_fail_lets_the_study_go_on(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study, stop = make_study(small_space), StopSignal()
    seen = run(
        study,
        small_space,
        all_but(2),
        tmp_path,
        RunOptions(trials=9, stop=stop, fail_fast=True, at_once=1),
    )
    assert (len(seen.ended), stop.reason, seen.pauses) == (9, "", [])
    complete = [trial.number for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert complete == [2]


@pytest.mark.usefixtures("ray_here")
def test_pruned_trials_and_reused_workers(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study = make_study(small_space, "tpe", "median", EPOCHS)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        for epoch in range(1, 7):
            value = curve(float(assignment.params["lr"]), epoch)
            report(EpochResult(epoch, value, {"pid": os.getpid()}))
        (assignment.folder / "done").touch()

    seen = run(study, small_space, train, tmp_path, RunOptions(trials=16, pruner="median"))
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

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        report(EpochResult(1, 0.5, {"pid": os.getpid()}))
        time.sleep(300)

    class AfterBoth(StopSignal):
        def due(self) -> bool:
            if sum(bool(t.intermediate_values) for t in study.get_trials(deepcopy=False)) == 2:
                self.finish("the time budget is spent")
            return bool(self.reason)

    began = time.monotonic()
    run(study, small_space, train, tmp_path, RunOptions(trials=10, stop=AfterBoth()))
    assert [t.state for t in study.trials] == [TrialState.PRUNED] * 2
    assert study.trials[0].user_attrs[REASON] == "epoch 1: the time budget is spent"
    assert time.monotonic() - began < 60


@pytest.mark.usefixtures("ray_here")
def test_a_worker_trains_on_while_the_driver_hears_of_an_epoch(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """But where the pruner decides: there it waits, and nobody trains on what is pruned."""
    study = make_study(small_space, "random", "halving", EPOCHS)  # decides at 1 and 3

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        with (assignment.folder / "begun").open("a") as begun:
            for epoch in range(1, EPOCHS + 1):
                begun.write(f"{epoch} {time.time()}\n")
                begun.flush()
                value = curve(float(assignment.params["lr"]), epoch)
                report(EpochResult(epoch, value, {"pid": os.getpid()}))

    class Slow(Seen):
        def __init__(self) -> None:
            super().__init__()
            self.heard_at: dict[tuple[int, int], float] = {}

        def on_epoch(self, number: int, report: EpochResult) -> None:
            self.heard_at[number, report.epoch] = time.time()
            time.sleep(0.2)
            super().on_epoch(number, report)

    seen = Slow()
    controller = controller_of(
        study, small_space, EPOCHS, seen, options=ControllerOptions(pruner="halving", trials=8)
    )
    run_trials(
        controller,
        train,
        TuneRun(
            capacity=find_capacity(ONE, 1), epoch_timeout=600, folder=tmp_path, stop=StopSignal()
        ),
    )
    ahead = []
    for trial in study.trials:
        lines = (tmp_path / "trials" / f"{trial.number:04d}" / "begun").read_text().splitlines()
        begun = {int(epoch): float(at) for epoch, at in map(str.split, lines)}
        assert [*begun] == [*trial.intermediate_values] == [*range(1, (trial.last_step or 0) + 1)]
        for epoch in [*begun][:-1]:
            before = begun[epoch + 1] < seen.heard_at[trial.number, epoch] + 0.2
            assert before == (epoch not in (1, 3)), (trial.number, epoch)
            ahead.append(before)
    states = [trial.state for trial in study.trials]
    assert any(ahead) and {TrialState.COMPLETE, TrialState.PRUNED} == {*states}


@pytest.mark.usefixtures("ray_here")
def test_one_that_is_stopped_in_a_long_epoch_costs_the_next_nothing(
    make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """Longer than Tune waits for a worker by itself."""

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        for epoch in range(1, EPOCHS + 1):
            if epoch == 3 and assignment.number == 0:
                time.sleep(4)
            report(EpochResult(epoch, 0.5, {"pid": os.getpid()}))

    class Strict(Seen):
        def on_epoch(self, number: int, report: EpochResult) -> None:
            super().on_epoch(number, report)
            if (number, report.epoch) == (0, 2):
                controller.interrupt(0, TrialFailed("no more of it"))

    seen = Strict()
    controller = controller_of(
        make_study(small_space), small_space, EPOCHS, seen, options=ControllerOptions(trials=3)
    )
    capacity = find_capacity(ONE, 1)
    run_trials(
        controller,
        train,
        TuneRun(capacity=capacity, epoch_timeout=600, folder=tmp_path, stop=StopSignal()),
    )
    assert [one.state for one in seen.ended] == [TrialState.FAIL, *[TrialState.COMPLETE] * 2]
    assert len(set.union(*seen.pids.values())) == 1, "the worker is the same"


@pytest.mark.usefixtures("free_ray")
@pytest.mark.parametrize("first", ["placed", "reported", "unreported"])
def test_a_listener_that_cannot_go_on_ends_the_study_in_a_line(
    first: str, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        if first == "unreported":  # what it has saved is found in its folder
            os.kill(os.getpid(), signal.SIGKILL)
        report(EpochResult(1, 0.5, {"pid": os.getpid()}))
        time.sleep(300)

    class Full(Seen):
        def on_trial_placed(self, number: int, node: str) -> None:
            if first == "placed":
                raise FdanError("the disk is full")

        def on_epoch(self, number: int, report: EpochResult) -> None:
            raise FdanError("the disk is full")

        def on_trial_end(self, outcome: TrialOutcome) -> None:
            raise FdanError("the disk is full")

    def find_unreported(trial: ActiveTrial) -> list[EpochResult]:
        return [EpochResult(1, 0.5, {"pid": 0})] if first == "unreported" else []

    controller = controller_of(
        study,
        small_space,
        EPOCHS,
        Full(),
        options=ControllerOptions(trials=4, find_unreported=find_unreported),
    )
    began = time.monotonic()
    with pytest.raises(FdanError, match="the disk is full"):
        run_trials(
            controller,
            train,
            TuneRun(
                capacity=find_capacity(ONE), epoch_timeout=600, folder=tmp_path, stop=StopSignal()
            ),
        )
    assert {trial.state for trial in study.trials} == {TrialState.RUNNING}, "they go on later"
    assert time.monotonic() - began < 60


@pytest.mark.usefixtures("free_ray")
@pytest.mark.parametrize(
    ("number", "ends", "line"),
    [
        (errno.ENOSPC, DiskFull, "/checkpoints/tensors"),
        (errno.EACCES, FdanError, "/checkpoints/tensors: Permission denied .*; the same command"),
    ],
)
def test_a_disk_that_a_worker_cannot_write_lets_the_trials_rest(
    number: int,
    ends: type[Exception],
    line: str,
    make_study: MakeStudy,
    small_space: Space,
    tmp_path: Path,
) -> None:
    """It is full, or another account's: no fault of the trial, and the next fares no better."""
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        report(EpochResult(1, 0.5, {"pid": os.getpid()}))
        if assignment.number == 1:
            raise OSError(number, os.strerror(number), "/checkpoints/tensors")
        time.sleep(300)

    with pytest.raises(ends, match=line):
        run(study, small_space, train, tmp_path, RunOptions(trials=4))
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2


def test_budget_is_counted_from_the_start() -> None:
    assert not StopSignal(None).due()
    assert not StopSignal(3600).due()
    stop = StopSignal(0.0)
    assert stop.due()
    assert (stop.reason, stop.code, stop.final) == ("the time budget is spent", 0, True)
    stop = StopSignal(0.0)
    stop.request("stopped by the user", 130)
    assert stop.due()
    assert (stop.reason, stop.code, stop.final) == ("stopped by the user", 130, False)


@pytest.mark.usefixtures("ray_here")
def test_what_does_not_fit_is_said() -> None:
    assert find_capacity(ONE).max_concurrent == 2
    assert find_capacity(ONE, 1).max_concurrent == 1
    assert find_capacity(ONE, 20).max_concurrent == 2
    assert find_capacity(TrialResources(cpus=2)).max_concurrent == 1
    with pytest.raises(DeviceError, match="Ray sees 0 GPUs"):
        find_capacity(TrialResources(cpus=1, gpus=1))
    with pytest.raises(ClusterError, match="Ray sees 2 CPUs"):
        find_capacity(TrialResources(cpus=3))


def test_tune_pickles_an_empty_shell(make_study: MakeStudy, small_space: Space) -> None:
    searcher = OptunaSearcher(
        controller_of(make_study(small_space), small_space, EPOCHS), MUCH, SingleTrials()
    )
    again = ray.cloudpickle.loads(ray.cloudpickle.dumps(searcher))
    assert not hasattr(again, "_controller")


def test_tune_is_not_done_before_every_trial_is(make_study: MakeStudy, small_space: Space) -> None:
    """The last one may still have to go on with another worker."""
    study = make_study(small_space)
    controller = controller_of(study, small_space, EPOCHS, options=ControllerOptions(trials=1))
    searcher = OptunaSearcher(controller, MUCH, SingleTrials())
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    assert [(assignment.number, assignment.start_epoch) for assignment in first[ASSIGNMENTS]] == [
        (0, 0)
    ]
    controller.record(0, EpochResult(1, 0.5))
    assert searcher.suggest("b") is None
    controller.interrupt(0, WorkerLost("the worker died"))
    searcher.on_trial_complete("a", error=True)
    again = searcher.suggest("b")
    assert isinstance(again, dict)
    assert [(assignment.number, assignment.start_epoch) for assignment in again[ASSIGNMENTS]] == [
        (0, 1)
    ]
    assert {**again, ASSIGNMENTS: ()} == {**first, ASSIGNMENTS: ()}
    assert searcher.suggest("c") is None
    controller.record(0, EpochResult(EPOCHS, 0.5))
    searcher.on_trial_complete("b")
    assert searcher.suggest("c") == OptunaSearcher.FINISHED
    assert study.trials[0].state is TrialState.COMPLETE
