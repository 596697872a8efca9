"""Each invariant is silent on a whole study and sees its violation in a spoilt one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from benchmarks.chaos.invariants import INVARIANTS, check
from benchmarks.chaos.stores import Evidence, Life, Point, Row, Run, Stores, Trial

STATUSES = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
LAST = {0: 4, 1: 4, 2: 2, 3: 1}
"""Trial -> its last epoch."""
FILES = frozenset(("config.json", "curve.png"))
STATES = {0: "COMPLETE", 1: "COMPLETE", 2: "PRUNED", 3: "FAIL"}


def value(trial: int, epoch: int) -> float:
    return trial / 7 + epoch / 3


def trial(number: int) -> Trial:
    values = {epoch: value(number, epoch) for epoch in range(1, LAST[number] + 1)}
    final = values[LAST[number]] if STATES[number] == "COMPLETE" else None
    reason = "the worker died: 3 times in a row in epoch 2"
    params = {"lr": 0.1 + number, "layers": number, "context": "bank"}
    return Trial(number, STATES[number], final, values, params, reason=reason)


def run(number: int) -> Run:
    rows = [
        row
        for epoch in range(1, LAST[number] + 1)
        for row in (
            Row("value", epoch, value(number, epoch)),
            Row("train/loss", epoch, 1 / epoch),
            Row("validation/loss", epoch, math.nan if number == 3 else 2 / epoch),
        )
    ]
    status = STATUSES[STATES[number]]
    params = {"lr": f"{0.1 + number:.17f}", "layers": str(number), "context": "bank", "batch": "8"}
    files = frozenset((*FILES, "more.txt"))
    return Run(f"run-{number}", number, status, tuple(rows), STATES[number], params, files)


def curve(number: int) -> dict[int, dict[str, float]]:
    return {
        epoch: {
            "value": value(number, epoch),
            "train/loss": 1 / epoch,
            "validation/loss": 2 / epoch,
        }
        for epoch in range(1, LAST[number] + 1)
    }


def whole() -> Evidence:
    """A study of four trials that lived through a killed driver and a killed raylet."""
    parent = Run("study", None, "FINISHED", (Row("best_value", 1, 0.5),), "COMPLETE")
    return Evidence(
        Stores(tuple(map(trial, LAST)), tuple(map(run, LAST)), (parent,)),
        asked=4,
        statuses=STATUSES,
        epochs=4,
        seen={Point(0, "value", 3): value(0, 3)},
        promised={
            Point(0, "train/loss", 2): 0.5,
            Point(3, "validation/loss", 1): math.nan,
        },
        interruptions={3: 3},
        undisturbed={0: curve(0), 1: curve(1)},
        artifacts=FILES,
        saved={(0, 1): 1, (0, 2): 2},
        trained={0: {1: 1, 2: 2, 3: 2}, 1: {1: 1}},
        lives=(
            Life(0.0, 9.0, None, "frozen features", 0, ("driver",)),
            Life(9.0, 30.0, 1, "error: it ended while it joined Ray", 0, ("worker", "raylet")),
            Life(9.0, 30.0, 1, "error: no database", 0, ("postgres",), ("postgres",)),
            Life(30.0, 60.0, 0, "", 0, ("raylet", "server")),
        ),
    )


def with_trial(evidence: Evidence, number: int, **changes: object) -> Evidence:
    trials = tuple(
        replace(t, **changes) if t.number == number else t  # type: ignore[arg-type]
        for t in evidence.stores.trials
    )
    return replace(evidence, stores=replace(evidence.stores, trials=trials))


def with_run(evidence: Evidence, number: int, **changes: object) -> Evidence:
    runs = tuple(
        replace(r, **changes) if r.trial == number else r  # type: ignore[arg-type]
        for r in evidence.stores.runs
    )
    return replace(evidence, stores=replace(evidence.stores, runs=runs))


def without(evidence: Evidence, number: int, key: str, epoch: int) -> Evidence:
    """One row of MLflow's gone."""
    rows = tuple(row for row in run(number).rows if (row.key, row.step) != (key, epoch))
    return with_run(evidence, number, rows=rows)


def changed(evidence: Evidence, number: int, key: str, epoch: int, by: float) -> Evidence:
    """One row of MLflow's with another value."""
    rows = tuple(
        Row(*row[:2], row.value + by) if (row.key, row.step) == (key, epoch) else row
        for row in run(number).rows
    )
    return with_run(evidence, number, rows=rows)


def and_life(evidence: Evidence, life: Life) -> Evidence:
    return replace(evidence, lives=(*evidence.lives, life))


def and_run(evidence: Evidence, extra: Run) -> Evidence:
    stores = evidence.stores
    return replace(evidence, stores=replace(stores, runs=(*stores.runs, extra)))


def parents(evidence: Evidence, *runs: Run) -> Evidence:
    return replace(evidence, stores=replace(evidence.stores, parents=runs))


def trials(evidence: Evidence, *kept: int) -> Evidence:
    """These trials, with their runs."""
    stores = Stores(tuple(map(trial, kept)), tuple(map(run, set(kept))), evidence.stores.parents)
    return replace(evidence, stores=stores, undisturbed={}, seen={}, promised={})


TRACEBACK = Life(0.0, 9.0, 0, "done", 1, ("worker",))
SPOILT: list[tuple[str, Callable[[Evidence], Evidence], str]] = [
    (
        "trials not in one final state",
        lambda e: with_trial(e, 1, state="RUNNING", endings=0),
        "trial 1 is RUNNING",
    ),
    (
        "trials not in one final state",
        lambda e: with_trial(e, 1, state="WAITING"),
        "trial 1 is WAITING",
    ),
    (
        "trials not in one final state",
        lambda e: with_trial(e, 1, endings=2),
        "trial 1 was ended 2 times",
    ),
    (
        "trials that failed",
        lambda e: with_trial(e, 3, reason="OSError: No space left on device"),
        "trial 3, interrupted 3 times: OSError: No space left on device",
    ),
    (
        "trials that failed",
        lambda e: with_trial(e, 3, reason=""),
        "trial 3, interrupted 3 times: no reason",
    ),
    (
        "trials that failed",
        lambda e: replace(e, interruptions={0: 9, 3: 2}),
        "trial 3, interrupted 2 times: the worker died: 3 times in a row in epoch 2",
    ),
    ("trial numbers missing or twice", lambda e: trials(e, 0, 1, 3), "no trial 2"),
    ("trial numbers missing or twice", lambda e: trials(e, 0, 1, 2, 2), "number 2 2 times"),
    (
        "trials missing, or beyond those asked for",
        lambda e: replace(e, asked=3),
        "4 trials, asked for 3: one too many",
    ),
    (
        "trials missing, or beyond those asked for",
        lambda e: trials(e, 0, 1, 2),
        "3 trials, asked for 4: one missing",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: replace(e, stores=replace(e.stores, runs=e.stores.runs[:3])),
        "trial 3 has 0 runs",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: and_run(e, replace(run(3), id="other")),
        "trial 3 has 2 runs",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: and_run(e, replace(run(3), id="other", trial=9)),
        "run other is of no trial",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: and_run(e, replace(run(3), id="other", trial=None)),
        "run other is of no trial",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: parents(e),
        "the study has 0 runs of its own",
    ),
    (
        "trials without exactly one MLflow run",
        lambda e: parents(e, *e.stores.parents, *e.stores.parents),
        "the study has 2 runs of its own",
    ),
    (
        "states that disagree",
        lambda e: with_run(e, 2, status="FINISHED"),
        "trial 2 is PRUNED, its run FINISHED (PRUNED)",
    ),
    (
        "states that disagree",
        lambda e: with_run(e, 2, state="PAUSED"),
        "trial 2 is PRUNED, its run KILLED (PAUSED)",
    ),
    (
        "states that disagree",
        lambda e: parents(e, Run("study", None, "KILLED", (), "PAUSED")),
        "the study's own run is KILLED (PAUSED)",
    ),
    (
        "MLflow runs left RUNNING",
        lambda e: with_run(e, 2, status="RUNNING"),
        "run run-2 of trial 2 is RUNNING",
    ),
    (
        "MLflow runs left RUNNING",
        lambda e: parents(e, Run("study", None, "RUNNING", (), "RUNNING")),
        "run study is RUNNING",
    ),
    (
        "(run, key, step) twice",
        lambda e: with_run(e, 1, rows=(*run(1).rows, Row("value", 2, value(1, 2)))),
        "run run-1 of trial 1: value at step 2 2 times",
    ),
    (
        "(run, key, step) twice",
        lambda e: parents(
            e, replace(e.stores.parents[0], rows=(Row("best", 1, 0.1), Row("best", 1, 0.2)))
        ),
        "run study: best at step 1 2 times",
    ),
    (
        "epochs missing",
        lambda e: with_trial(e, 1, values={1: 1.0, 4: value(1, 4)}),
        "trial 1 in Optuna: no epoch 2, 3",
    ),
    (
        "epochs missing",
        lambda e: without(e, 1, "train/loss", 2),
        "run run-1 of trial 1, 1 metrics, the first one train/loss: no epoch 2",
    ),
    (
        "epochs missing",
        lambda e: without(e, 1, "train/loss", 4),
        "run run-1 of trial 1, 1 metrics, the first one train/loss: no epoch 4",
    ),
    (
        "epochs missing",
        lambda e: with_run(e, 1, rows=(*run(1).rows, Row("value", 0, 0.1))),
        "run run-1 of trial 1, 1 metrics, the first one value: epoch 0",
    ),
    (
        "epochs missing",
        lambda e: replace(e, epochs=5),
        "trial 0 is complete after 4 epochs",
    ),
    (
        "metrics lost or changed since a kill",
        lambda e: replace(e, seen={Point(0, "value", 5): 0.7}),
        "Optuna: trial 0, value of epoch 5: was 0.7, is gone",
    ),
    (
        "metrics lost or changed since a kill",
        lambda e: replace(e, seen={Point(9, "value", 1): 0.7}),
        "Optuna: trial 9, value of epoch 1: was 0.7, is gone",
    ),
    (
        "metrics lost or changed since a kill",
        lambda e: replace(e, promised={Point(0, "train/loss", 2): 0.25}),
        "MLflow: trial 0, train/loss of epoch 2: was 0.25, is 0.5",
    ),
    (
        "epochs unlike in Optuna and MLflow",
        lambda e: changed(e, 1, "value", 2, 1e-16 + 1e-15),
        "trial 1, epoch 2: 0.8095238095238095 in Optuna, 0.8095238095238106 in MLflow",
    ),
    (
        "epochs unlike in Optuna and MLflow",
        lambda e: without(e, 2, "value", 2),
        "trial 2, epoch 2: 0.9523809523809523 in Optuna, nothing in MLflow",
    ),
    (
        "epochs unlike in Optuna and MLflow",
        lambda e: with_trial(e, 2, values={1: value(2, 1)}),
        "trial 2, epoch 2: nothing in Optuna, 0.9523809523809523 in MLflow",
    ),
    (
        "final values unlike the metrics",
        lambda e: with_trial(e, 0, value=value(0, 3)),
        "trial 0: 1.0, its last epoch (4) is 1.3333333333333333 in MLflow",
    ),
    (
        "final values unlike the metrics",
        lambda e: with_trial(e, 0, values={}),
        "trial 0: 1.3333333333333333, its last epoch (4) is nothing in Optuna",
    ),
    (
        "trials unlike undisturbed ones",
        lambda e: changed(e, 1, "validation/loss", 3, 1e-15),
        "trial 1: 1 numbers differ, the first one validation/loss of epoch 3:"
        " 0.6666666666666676, undisturbed 0.6666666666666666",
    ),
    (
        "trials unlike undisturbed ones",
        lambda e: without(e, 0, "train/loss", 4),
        "trial 0: 1 numbers differ, the first one train/loss of epoch 4: None, undisturbed 0.25",
    ),
    (
        "bare tracebacks",
        lambda e: and_life(e, TRACEBACK),
        "the driver of 0 to 9 s (faults: worker), exit code 0: done",
    ),
    (
        "ends without a clear line",
        lambda e: and_life(e, Life(0.0, 9.0, 1, "", 0, ("raylet",))),
        "the driver of 0 to 9 s (faults: raylet), exit code 1: (nothing on stderr)",
    ),
    (
        "ends without a clear line",
        lambda e: and_life(e, Life(0.0, 9.0, -6, "error: no space", 0, ("disk",))),
        "the driver of 0 to 9 s (faults: disk), exit code -6: error: no space",
    ),
    (
        "ends without a clear line",
        lambda e: and_life(e, replace(TRACEBACK, code=1)),
        "the driver of 0 to 9 s (faults: worker), exit code 1: done",
    ),
    (
        "ends without a clear line",
        lambda e: and_life(e, Life(0.0, 9.0, 1, "[2026-11-22 16:00:01 E] died", 0, ("raylet",))),
        "the driver of 0 to 9 s (faults: raylet), exit code 1: [2026-11-22 16:00:01 E] died",
    ),
    (
        "drivers that ended for no good reason",
        lambda e: and_life(e, Life(0.0, 9.0, 2, "error: the study is being run", 0)),
        "the driver of 0 to 9 s (faults: none), exit code 2: error: the study is being run",
    ),
    *(
        (
            "drivers that ended for no good reason",
            partial(and_life, life=Life(0.0, 9.0, 1, "error: over", 0, (kind,), starting)),
            f"the driver of 0 to 9 s (faults: {kind}), exit code 1: error: over",
        )
        for kind, starting in [
            ("raylet", ()),
            ("postgres", ()),
            ("server", ("server",)),
            ("worker", ()),
            ("stop", ("stop",)),
        ]
    ),
    (
        "settings unlike in Optuna and MLflow",
        lambda e: with_trial(e, 2, params={"lr": 0.1}),
        "trial 2: lr is 0.1 in Optuna, 2.10000000000000009 in MLflow",
    ),
    (
        "settings unlike in Optuna and MLflow",
        lambda e: with_run(e, 1, params={"lr": "no number", "context": "bank"}),
        "trial 1: layers is 1 in Optuna, nothing in MLflow",
    ),
    (
        "runs without one of their files",
        lambda e: with_run(e, 3, artifacts=frozenset(("config.json",))),
        "run run-3 of trial 3 has no curve.png",
    ),
    (
        "trained again though it was saved",
        lambda e: replace(e, trained={0: {1: 2, 2: 3, 3: 2}}),
        "trial 0: epoch 1, 2 was saved",
    ),
    ("processes left over", lambda e: replace(e, left_over=2), "process 2 of 2"),
    (
        "studies stuck",
        lambda e: replace(e, stuck="nothing advanced for 300 s"),
        "nothing advanced for 300 s",
    ),
]


def test_a_whole_study_violates_nothing() -> None:
    assert check(whole()) == {title: [] for title in INVARIANTS}


@pytest.mark.parametrize(("title", "spoil", "line"), SPOILT)
def test_a_violation_is_seen(title: str, spoil: Callable[[Evidence], Evidence], line: str) -> None:
    assert line in check(spoil(whole()))[title]


def test_a_trial_may_fail_of_its_own_numbers() -> None:
    evidence = with_trial(whole(), 3, reason="epoch 2: value is nan")
    assert check(evidence)["trials that failed"] == []


def test_each_invariant_has_a_violation() -> None:
    assert {title for title, _, _ in SPOILT} == set(INVARIANTS)


@pytest.mark.parametrize("number", [0, 2])
def test_a_missing_last_value_is_no_violation_of_who_never_tells_it(number: int) -> None:
    """OptunaSearch: the last result is in the trial's value only. One before it must be there."""
    told = dict(list(trial(number).values.items())[:-1])
    evidence = with_trial(whole(), number, values=told)
    evidence = replace(evidence, last_in_optuna=False, epochs=None, seen={})
    assert check(evidence) == {title: [] for title in INVARIANTS}
    evidence = with_trial(evidence, number, values={1: told[1]} if number == 0 else {})
    assert check(evidence)["epochs unlike in Optuna and MLflow"]


def test_counts_are_those_of_what_is_violated() -> None:
    """A gap is counted once a run, a doubled number and a lost one each by itself."""
    gone = with_run(whole(), 1, rows=tuple(row for row in run(1).rows if row.step != 2))
    assert len(check(gone)["epochs missing"]) == 1
    doubled = with_run(whole(), 1, rows=run(1).rows * 2)
    assert len(check(doubled)["(run, key, step) twice"]) == len(run(1).rows)
    assert len(check(replace(whole(), asked=1))["trials missing, or beyond those asked for"]) == 3
