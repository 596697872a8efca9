"""Trials that train as one: put together by kind, up to the next rung, and apart again after any
trouble. Real Ray, real Optuna, real training; only where noted a cheap function in its place."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from optuna.trial import TrialState

from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.group import group_key
from search.cli.parser import parse
from search.config.spec import TrialResources, resolve
from search.optimizer.pruners import next_rung
from search.optimizer.space import Space, Value
from search.study.open import REASON
from search.study.stopping import StopSignal
from search.study.trial_controller import Bridge
from search.tune import recovery as running
from search.tune import tune_run as driver
from search.tune.grouping import Groups
from search.worker.data import WorkerData
from search.worker.messages import Report, Turn
from search.worker.trainable import Assignment, Tell
from search.worker.training import make_group_trainer, make_trainer
from search.worker.trial_folder import CHECKPOINT
from tests.search.conftest import Heard, MakeStudy, bridge_of

pytestmark = pytest.mark.long

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

EPOCHS = 18
"""Rungs at 3 and 9."""

RUNG = partial(next_rung, "halving", EPOCHS)


def layers(params: Any) -> int:
    return int(params["layers"])


def taken(groups: Groups, bridge: Bridge) -> list[int]:
    return [turn.number for turn in groups.turns(bridge)]


def rest(bridge: Bridge, turns: Sequence[Turn], value: Callable[[int], float]) -> None:
    """Their turn, as the driver hears of it."""
    for turn in turns:
        for epoch in range(turn.after + 1, turn.until + 1):
            bridge.report(turn.number, Report(epoch, value(turn.number)))
        bridge.let_go(turn.number)


def test_a_group_is_of_one_kind_and_ends_at_the_next_rung(
    make_study: MakeStudy, small_space: Space
) -> None:
    """Whoever survives is put together again, with those that wait; nobody is lost."""
    heard = Heard()
    bridge = bridge_of(
        make_study(small_space, pruner="halving", epochs=EPOCHS),
        small_space,
        EPOCHS,
        heard,
        pruner="halving",
        trials=24,
    )
    groups = Groups(4, layers, RUNG)
    sizes, seen = list[int](), list[tuple[int, int]]()
    while turns := groups.turns(bridge):
        assert len({layers(turn.params) for turn in turns}) == 1
        assert len(turns) <= 4
        assert bridge.waiting <= 8, "no more than two groups are drawn ahead"
        for turn in turns:
            assert turn.until == RUNG(turn.after)
        sizes.append(len(turns))
        seen += [(turn.number, turn.after) for turn in turns]
        rest(bridge, turns, lambda number: number / 100)
    assert (bridge.left, bridge.live) == (0, ())
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
    bridge = bridge_of(make_study(small_space), small_space, EPOCHS, trials=8)
    groups = Groups(4, lambda _: "one", RUNG)
    turns = groups.turns(bridge)
    for turn in turns:
        bridge.died(turn.number, "the worker's process ended unexpectedly")
        bridge.let_go(turn.number)
    alone = [turn for _ in turns for turn in groups.turns(bridge)]
    assert [(one.number, one.until) for one in alone] == [(turn.number, 1) for turn in turns]
    rest(bridge, alone, lambda _: 0.5)
    assert [turn.after for turn in groups.turns(bridge)] == [0] * 4, "four that waited longer"
    again = groups.turns(bridge)
    assert [one.number for one in again] == [one.number for one in alone]
    assert [(one.after, one.until) for one in again] == [(1, 3)] * 4


def test_settings_that_are_refused_are_left_to_their_worker(tmp_path: Path) -> None:
    """Whether heads divide the width, no dimension knows by itself."""
    words = ["--runs", str(tmp_path), "--group", "4", "--tuning", "frozen", "--device", "cpu"]
    spec = resolve(parse(words).options)
    groups = running._groups(spec, SimpleNamespace(pruner="none"))  # type: ignore[arg-type]
    point: dict[str, Value] = {"layers": 1, "heads": 2, "width": 64}
    assert groups._kind(point) == groups._kind({**point, "alpha": 0.5, "lr": 0.1}) is not None
    assert groups._kind({**point, "heads": 3}) is None


def test_a_node_that_is_gone_is_nobodys_fault(make_study: MakeStudy, small_space: Space) -> None:
    bridge = bridge_of(make_study(small_space), small_space, EPOCHS, trials=4)
    groups = Groups(4, lambda _: "one", RUNG)
    turns = groups.turns(bridge)
    for turn in turns:
        bridge.died(turn.number, "its node is gone", blamed=False)
        bridge.let_go(turn.number)
    assert groups.turns(bridge) == turns
    groups.smaller(4)
    for turn in turns:
        bridge.died(turn.number, "out of GPU memory", blamed=False)
        bridge.let_go(turn.number)
    assert [len(taken(groups, bridge)) for _ in range(2)] == [2, 2]
    groups.smaller(2)
    assert groups.most == 1


def test_what_has_no_kind_goes_alone(make_study: MakeStudy, small_space: Space) -> None:
    bridge = bridge_of(make_study(small_space), small_space, EPOCHS, trials=5)
    groups = Groups(4, lambda params: layers(params) or None, RUNG)
    alone = list[Turn]()
    while turns := groups.turns(bridge):
        if layers(turns[0].params) == 0:
            assert len(turns) == 1
            alone += turns
        rest(bridge, turns, lambda _: 0.5)
    assert alone and {(turn.after, turn.until) for turn in alone} == {(0, EPOCHS)}


@pytest.mark.usefixtures("ray_here")
def test_a_study_of_groups(make_study: MakeStudy, small_space: Space, tmp_path: Path) -> None:
    """On Ray, with cheap work: one trial diverges, one raises, one kills its worker. Each of those
    three is FAIL for its own reason, and each other trial is what it is alone."""
    study = make_study(small_space, pruner="halving", epochs=EPOCHS)

    def work(one: Assignment, epoch: int) -> Report:
        if one.number == 3 and epoch == 2:
            raise RuntimeError("a fault")
        if one.number == 5 and epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        value = float(one.params["lr"]) * (1 - math.exp(-epoch))
        return Report(epoch, value, {"pid": os.getpid()})

    def alone(one: Assignment, report: Callable[[Report], None]) -> None:
        (one.folder / "alone").touch()
        for epoch in range(1, one.until + 1):
            report(work(one, epoch))

    def together(group: Sequence[Assignment], tell: Tell) -> None:
        last = max(one.until for one in group)
        for epoch in range(1, last + 1):
            there = [one for one in group if one.after < epoch <= one.until]
            diverged = {1: "diverged: the loss is nan"} if epoch == 2 else {}
            failed = {n: why for n, why in diverged.items() if n in {one.number for one in there}}
            tell({o.number: work(o, epoch) for o in there if o.number not in failed}, failed)

    heard = Heard()
    bridge = bridge_of(study, small_space, EPOCHS, heard, pruner="halving", trials=16)
    driver.run(
        bridge,
        alone,
        capacity=driver.find_capacity(TrialResources(cpus=1), 1),
        epoch_timeout=600.0,
        folder=tmp_path,
        stop=StopSignal(),
        together=together,
        groups=Groups(4, layers, RUNG),
    )
    assert (bridge.left, bridge.live) == (0, ())
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
    """Metrics and checkpoints, in two turns, the second one begun anew from the disk."""
    heard: dict[int, dict[int, Report]] = {n: {} for n in range(len(OWN))}

    def tell(reports: Any, failed: Any) -> None:
        assert not failed
        for number, report in reports.items():
            assert report.epoch not in heard[number]
            heard[number][report.epoch] = report

    def assignments(folder: str, after: int, until: int) -> list[Assignment]:
        made = []
        for number, own in enumerate(OWN):
            its = tmp_path / folder / str(number)
            its.mkdir(parents=True, exist_ok=True)
            made.append(Assignment(number, {**SHARED, **own}, after, until, its, 1))
        return made

    together = make_group_trainer(work)
    together(assignments("group", 0, 2), tell)
    assert all(list(reports) == [1, 2] for reports in heard.values())
    together(assignments("group", 2, 6), tell)
    for one in assignments("alone", 0, 6):
        expected: list[Report] = []
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
