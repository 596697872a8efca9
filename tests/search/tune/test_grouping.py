"""Trials that train as one: put together by kind, up to the next rung, and apart again after any
trouble. Real Ray, real Optuna, real training; only where noted a cheap function in its place."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from optuna.trial import TrialState

from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.group import group_key
from search.cli.main import parse
from search.config.spec import TrialResources, resolve
from search.optimizer.pruners import next_rung
from search.optimizer.space import Space, Value
from search.study.events import REASON
from search.study.stopping import StopSignal
from search.study.trial_controller import TrialController
from search.tune.grouping import TrialGroups, TuneRun
from search.tune.recovery import _grouping
from search.tune.tune_run import find_capacity, run_trials
from search.worker.data import WorkerData
from search.worker.messages import EpochResult, OutOfGpuMemory, TrialAssignment, WorkerLost
from search.worker.trainable import ReportGroup, TrainGroup, TrialContext
from search.worker.training import make_group_trainer, make_trainer
from search.worker.trial_folder import CHECKPOINT
from tests.search.conftest import ControllerOptions, Heard, MakeStudy, controller_of

pytestmark = pytest.mark.long

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 18
"""Rungs at 3 and 9."""

RUNG = partial(next_rung, "halving", EPOCHS)


def never(trials: Sequence[TrialContext], report: ReportGroup) -> None:
    raise AssertionError("nothing is trained here")


def groups_of(
    kind: Callable[[Any], Hashable | None], train_group: TrainGroup = never
) -> TrialGroups:
    return TrialGroups(4, kind, RUNG, train_group, print)


def layers(params: Any) -> int:
    return int(params["layers"])


def taken(groups: TrialGroups, controller: TrialController) -> list[int]:
    return [assignment.number for assignment in groups.next_assignments(controller)]


def rest(
    controller: TrialController,
    assignments: Sequence[TrialAssignment],
    value: Callable[[int], float],
) -> None:
    """Their assignment, as the driver hears of it."""
    for assignment in assignments:
        for epoch in range(assignment.start_epoch + 1, assignment.stop_epoch + 1):
            controller.record(assignment.number, EpochResult(epoch, value(assignment.number)))
        controller.release(assignment.number)


def test_a_group_is_of_one_kind_and_ends_at_the_next_rung(
    make_study: MakeStudy, small_space: Space
) -> None:
    """Whoever survives is put together again, with those that wait; nobody is lost."""
    heard = Heard()
    controller = controller_of(
        make_study(small_space, pruner="halving", epochs=EPOCHS),
        small_space,
        EPOCHS,
        heard,
        options=ControllerOptions(pruner="halving", trials=24),
    )
    groups = groups_of(layers)
    sizes, seen = list[int](), list[tuple[int, int]]()
    while assignments := groups.next_assignments(controller):
        assert len({layers(assignment.params) for assignment in assignments}) == 1
        assert len(assignments) <= 4
        assert len(controller.queue) <= 8, "no more than two groups are drawn ahead"
        for assignment in assignments:
            assert assignment.stop_epoch == RUNG(assignment.start_epoch)
        sizes.append(len(assignments))
        seen += [(assignment.number, assignment.start_epoch) for assignment in assignments]
        rest(controller, assignments, lambda number: number / 100)
    assert (controller.new_trials_left, controller.active) == (0, ())
    assert len(seen) == len(set(seen)), "an epoch is trained once"
    states = {trial.number: trial.state for trial in heard.ended}
    assert sorted(states) == list(range(24))
    assert set(states.values()) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert min(sizes[:4]) >= 3, "all but full as long as there are trials to ask for"
    assert not heard.interruptions, "to rest at a rung is no interruption"


def test_one_that_a_worker_died_of_goes_alone_for_an_epoch(
    make_study: MakeStudy, small_space: Space
) -> None:
    """Before all others, and with others again when it has survived that."""
    controller = controller_of(
        make_study(small_space), small_space, EPOCHS, options=ControllerOptions(trials=8)
    )
    groups = groups_of(lambda _: "one")
    assignments = groups.next_assignments(controller)
    for assignment in assignments:
        controller.interrupt(
            assignment.number, WorkerLost("the worker's process ended unexpectedly")
        )
        controller.release(assignment.number)
    alone = [assignment for _ in assignments for assignment in groups.next_assignments(controller)]
    assert [(one.number, one.stop_epoch) for one in alone] == [
        (assignment.number, 1) for assignment in assignments
    ]
    rest(controller, alone, lambda _: 0.5)
    assert [assignment.start_epoch for assignment in groups.next_assignments(controller)] == [
        0
    ] * 4, "four that waited longer"
    again = groups.next_assignments(controller)
    assert [one.number for one in again] == [one.number for one in alone]
    assert [(one.start_epoch, one.stop_epoch) for one in again] == [(1, 3)] * 4


def test_settings_that_are_refused_are_left_to_their_worker(tmp_path: Path) -> None:
    """Whether heads divide the width, no dimension knows by itself."""
    words = ["--runs", str(tmp_path), "--group", "4", "--tuning", "frozen", "--device", "cpu"]
    spec = resolve(parse(words).options)
    data = WorkerData((), (), {}, spec.fixed, "cpu", tmp_path, "")
    groups = _grouping(spec, "none", data, print)
    assert isinstance(groups, TrialGroups)
    point: dict[str, Value] = {"layers": 1, "heads": 2, "width": 64}
    assert groups.kind(point) == groups.kind({**point, "alpha": 0.5, "lr": 0.1}) is not None
    assert groups.kind({**point, "heads": 3}) is None


def test_a_node_that_is_gone_is_nobodys_fault(make_study: MakeStudy, small_space: Space) -> None:
    controller = controller_of(
        make_study(small_space), small_space, EPOCHS, options=ControllerOptions(trials=4)
    )
    groups = groups_of(lambda _: "one")
    assignments = groups.next_assignments(controller)
    for assignment in assignments:
        controller.interrupt(assignment.number, WorkerLost("its node is gone", blame_trial=False))
        controller.release(assignment.number)
    assert groups.next_assignments(controller) == assignments
    lost = WorkerLost("out of GPU memory", blame_trial=False)
    numbers = [assignment.number for assignment in assignments]
    assert groups.route(numbers, OutOfGpuMemory()) == [(number, lost) for number in numbers]
    for assignment in assignments:
        controller.interrupt(assignment.number, WorkerLost("out of GPU memory", blame_trial=False))
        controller.release(assignment.number)
    assert [len(taken(groups, controller)) for _ in range(2)] == [2, 2]
    groups.route([0, 1], OutOfGpuMemory())
    assert groups.max_size == 1


def test_what_has_no_kind_goes_alone(make_study: MakeStudy, small_space: Space) -> None:
    controller = controller_of(
        make_study(small_space), small_space, EPOCHS, options=ControllerOptions(trials=5)
    )
    groups = groups_of(lambda params: layers(params) or None)
    alone = list[TrialAssignment]()
    while assignments := groups.next_assignments(controller):
        if layers(assignments[0].params) == 0:
            assert len(assignments) == 1
            alone += assignments
        rest(controller, assignments, lambda _: 0.5)
    assert alone and {(assignment.start_epoch, assignment.stop_epoch) for assignment in alone} == {
        (0, EPOCHS)
    }


@pytest.mark.usefixtures("ray_here")
def test_a_study_of_groups(make_study: MakeStudy, small_space: Space, tmp_path: Path) -> None:
    """On Ray, with cheap work: one trial diverges, one raises, one kills its worker. Each of those
    three is FAIL for its own reason, and each other trial is what it is alone."""
    study = make_study(small_space, pruner="halving", epochs=EPOCHS)

    def work(one: TrialContext, epoch: int) -> EpochResult:
        if one.number == 3 and epoch == 2:
            raise RuntimeError("a fault")
        if one.number == 5 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        value = float(one.params["lr"]) * (1 - math.exp(-epoch))
        return EpochResult(epoch, value, {"pid": os.getpid()})

    def alone(one: TrialContext, report: Callable[[EpochResult], None]) -> None:
        (one.folder / "alone").touch()
        for epoch in range(1, one.stop_epoch + 1):
            report(work(one, epoch))

    def together(group: Sequence[TrialContext], tell: ReportGroup) -> None:
        last = max(one.stop_epoch for one in group)
        for epoch in range(1, last + 1):
            there = [one for one in group if one.start_epoch < epoch <= one.stop_epoch]
            diverged = {1: "diverged: the loss is nan"} if epoch == 2 else {}
            failed = {n: why for n, why in diverged.items() if n in {one.number for one in there}}
            tell({o.number: work(o, epoch) for o in there if o.number not in failed}, failed)

    heard = Heard()
    controller = controller_of(
        study, small_space, EPOCHS, heard, options=ControllerOptions(pruner="halving", trials=16)
    )
    run_trials(
        controller,
        alone,
        TuneRun(
            capacity=find_capacity(TrialResources(cpus=1), 1),
            epoch_timeout=600.0,
            folder=tmp_path,
            stop=StopSignal(),
            grouping=groups_of(layers, together),
        ),
    )
    assert (controller.new_trials_left, controller.active) == (0, ())
    trials = study.get_trials()
    reasons = {t.number: t.user_attrs[REASON] for t in trials if t.state is TrialState.FAIL}
    assert reasons == {
        1: "diverged: the loss is nan",
        3: "RuntimeError: a fault",
        5: "the worker's process ended unexpectedly: 3 times in a row in epoch 2",
    }
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trial in trials:
        rate = float(trial.params["lr"])
        if trial.number not in reasons:
            last = EPOCHS if trial.state is TrialState.COMPLETE else trial.last_step
            assert last in {3, 9, EPOCHS}
            assert trial.intermediate_values == {
                epoch: rate * (1 - math.exp(-epoch)) for epoch in range(1, last + 1)
            }
    grouped = [t.number for t in trials if not (tmp_path / f"trials/{t.number:04d}/alone").exists()]
    assert len(grouped) >= 6
    assert max(sum(n == number for n, _ in heard.interruptions) for number in (3, 5)) <= 3


OWN = [{"alpha": 0.01}, {"alpha": 0.1, "lr": 0.003}, {"kernels": 2, "decay": 0.0}]
SHARED = {"layers": 1, "decay": 1e-4, "kernels": 5, "ratio": 2.0, "scale": 1.0, "lr": 0.01}


def test_trained_as_one_they_are_what_they_are_alone(work: WorkerData, tmp_path: Path) -> None:
    """Metrics and checkpoints, in two assignments, the second one begun anew from the disk."""
    heard: dict[int, dict[int, EpochResult]] = {n: {} for n in range(len(OWN))}

    def tell(reports: Any, failed: Any) -> None:
        assert not failed
        for number, report in reports.items():
            assert report.epoch not in heard[number]
            heard[number][report.epoch] = report

    def assignments(folder: str, after: int, until: int) -> list[TrialContext]:
        made = []
        for number, own in enumerate(OWN):
            its = tmp_path / folder / str(number)
            its.mkdir(parents=True, exist_ok=True)
            made.append(TrialContext(number, {**SHARED, **own}, after, until, folder=its))
        return made

    together = make_group_trainer(work)
    together(assignments("group", 0, 2), tell)
    assert all(list(reports) == [1, 2] for reports in heard.values())
    together(assignments("group", 2, 6), tell)
    for one in assignments("alone", 0, 6):
        expected: list[EpochResult] = []
        make_trainer(work)(one, expected.append)
        found = list(heard[one.number].values())
        assert [report.epoch for report in found] == [1, 2, 3, 4, 5, 6]
        for ours, its in zip(found, expected, strict=True):
            for name in its.metrics.keys() - {"time/epoch_s"}:
                np.testing.assert_allclose(ours.metrics[name], its.metrics[name], 1e-5, 1e-5, name)
        a, b = (
            Checkpoint.load(tmp_path / folder / str(one.number) / CHECKPOINT)
            for folder in ("group", "alone")
        )
        assert (a.run, a.epoch, a.step) == (b.run, b.epoch, b.step)
        for name, tensor in a.tensors.items():
            np.testing.assert_allclose(tensor, b.tensors[name], 1e-4, 1e-5, name)


def test_kinds_are_the_settings_of_a_network(work: WorkerData) -> None:
    def of(**params: Any) -> Any:
        return group_key(RunConfig.from_mapping({**work.fixed, **SHARED, "alpha": 0.1, **params}))

    assert of(alpha=0.5, kernels=1, lr=0.1, seed=3) == of()
    assert of(layers=2) != of()
