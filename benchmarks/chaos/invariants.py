"""What must hold for a study, whatever happened to its processes. Each invariant looks at the
evidence and names every violation in a line."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.chaos.stores import FINAL, Evidence, Life, Point, Run, Stores

Invariant = Callable[[Evidence], list[str]]

VALUE: Final = "value"
"""The metric that a study maximises."""

_NO_NUMBER: Final = re.compile(r"\b(nan|inf)\b")
_DEATHS: Final = "times in a row"
_ENOUGH_DEATHS: Final = 3

_JOINING: Final = "while it joined Ray"
"""In the last line of a driver whose Ray broke down in that moment: Ray's core ends it."""

COMPARED: Final = (VALUE, "validation/loss", "train/loss")
"""Metrics that must be those of an undisturbed training, to the last bit."""


def unfinished(evidence: Evidence) -> list[str]:
    """Each trial is in a final state, which was written once."""
    found = []
    for trial in evidence.stores.trials:
        if trial.state not in FINAL:
            found.append(f"trial {trial.number} is {trial.state}")
        elif trial.endings != 1:
            found.append(f"trial {trial.number} was ended {trial.endings} times")
    return found


def none_failed(evidence: Evidence) -> list[str]:
    """No trial fails of what was done to the machine. One whose numbers are no numbers may, and one
    that lost its workers again and again."""
    found = []
    for trial in evidence.stores.trials:
        times = evidence.interruptions.get(trial.number, 0)
        excused = _NO_NUMBER.search(trial.reason) or (
            _DEATHS in trial.reason and times >= _ENOUGH_DEATHS
        )
        if trial.state == "FAIL" and not excused:
            why = trial.reason or "no reason"
            found.append(f"trial {trial.number}, interrupted {times} times: {why}")
    return found


def numbering(evidence: Evidence) -> list[str]:
    """Numbers are 0, 1, 2 ..., each once."""
    counts = Counter(trial.number for trial in evidence.stores.trials)
    found = [f"number {number} {times} times" for number, times in counts.items() if times > 1]
    return found + [f"no trial {n}" for n in range(max(counts, default=-1)) if n not in counts]


def asked(evidence: Evidence) -> list[str]:
    """As many trials as were asked for."""
    there = len(evidence.stores.trials)
    word = "too many" if there > evidence.asked else "missing"
    missing = abs(there - evidence.asked)
    return [f"{there} trials, asked for {evidence.asked}: one {word}"] * missing


def one_run_each(evidence: Evidence) -> list[str]:
    """Each trial has one MLflow run, each run its trial, and the study its own."""
    stores, found = evidence.stores, []
    for trial in stores.trials:
        there = len(stores.runs_of(trial.number))
        if there != 1:
            found.append(f"trial {trial.number} has {there} runs")
    known = {trial.number for trial in stores.trials}
    found += [f"run {run.id} is of no trial" for run in stores.runs if run.trial not in known]
    if len(stores.parents) != evidence.parents:
        found.append(f"the study has {len(stores.parents)} runs of its own")
    return found


def states_agree(evidence: Evidence) -> list[str]:
    """A run says of its trial what Optuna says."""
    found = []
    for trial in evidence.stores.trials:
        for run in evidence.stores.runs_of(trial.number):
            wanted = evidence.statuses.get(trial.state)
            if run.status != wanted or run.state not in (None, trial.state):
                told = run.status if run.state is None else f"{run.status} ({run.state})"
                found.append(f"trial {trial.number} is {trial.state}, its run {told}")
    for run in evidence.stores.parents:
        if run.status != "FINISHED":
            found.append(f"the study's own run is {run.status} ({run.state})")
    return found


def none_running(evidence: Evidence) -> list[str]:
    """No run looks as if it were under way."""
    runs = (*evidence.stores.runs, *evidence.stores.parents)
    return [f"{_named(run)} is {run.status}" for run in runs if run.status == "RUNNING"]


def none_twice(evidence: Evidence) -> list[str]:
    """No (run, key, step) has two rows."""
    found = []
    for run in (*evidence.stores.runs, *evidence.stores.parents):
        counts = Counter((row.key, row.step) for row in run.rows)
        for (key, step), times in counts.items():
            if times > 1:
                found.append(f"{_named(run)}: {key} at step {step} {times} times")
    return found


def no_gaps(evidence: Evidence) -> list[str]:
    """A trial's epochs go from 1 to its last, in Optuna, and for each metric in MLflow. A complete
    trial has all of them."""
    found = []
    for trial in evidence.stores.trials:
        if gap := _gap(set(trial.values)):
            found.append(f"trial {trial.number} in Optuna: {gap}")
        last = max(trial.values, default=0)
        if trial.state == "COMPLETE" and evidence.epochs is not None and last != evidence.epochs:
            found.append(f"trial {trial.number} is complete after {last} epochs")
    for run in evidence.stores.runs:
        steps: dict[str, set[int]] = {}
        for row in run.rows:
            steps.setdefault(row.key, set()).add(row.step)
        last = max((max(of_key) for of_key in steps.values()), default=0)
        gaps = {key: gap for key, of_key in steps.items() if (gap := _gap(of_key, last))}
        if gaps:
            key, gap = next(iter(gaps.items()))
            found.append(f"{_named(run)}, {len(gaps)} metrics, the first one {key}: {gap}")
    return found


def nothing_lost(evidence: Evidence) -> list[str]:
    """What was there at a kill is there at the end, unchanged."""
    optuna = {
        Point(trial.number, VALUE, epoch): [value]
        for trial in evidence.stores.trials
        for epoch, value in trial.values.items()
    }
    # A number that has more than one row by now is another invariant's business.
    mlflow: dict[Point, list[float]] = {}
    for run in evidence.stores.runs:
        for row in run.rows:
            if run.trial is not None:
                mlflow.setdefault(Point(run.trial, row.key, row.step), []).append(row.value)
    return _missing("Optuna", evidence.seen, optuna) + _missing("MLflow", evidence.promised, mlflow)


def same_numbers(evidence: Evidence) -> list[str]:
    """Optuna's and MLflow's values of an epoch are the same."""
    found, rows = [], _rows(evidence.stores)
    for trial in evidence.stores.trials:
        told = {point.epoch: rows[point] for point in rows if point[:2] == (trial.number, VALUE)}
        epochs = trial.values.keys() | told.keys()
        if not evidence.last_in_optuna and epochs:
            epochs -= {max(epochs)} - trial.values.keys()
        for epoch in sorted(epochs):
            there, here = trial.values.get(epoch), told.get(epoch)
            if not _same(there, here):
                found.append(
                    f"trial {trial.number}, epoch {epoch}: {_or_nothing(there)} in Optuna,"
                    f" {_or_nothing(here)} in MLflow"
                )
    return found


def final_values(evidence: Evidence) -> list[str]:
    """A complete trial's value is its last epoch's, in Optuna and in MLflow."""
    found, rows = [], _rows(evidence.stores)
    for trial in evidence.stores.trials:
        if trial.state != "COMPLETE":
            continue
        told = {point.epoch: rows[point] for point in rows if point[:2] == (trial.number, VALUE)}
        last = max((*told, *trial.values), default=0)
        where = {"MLflow": told.get(last), "Optuna": trial.values.get(last)}
        if not evidence.last_in_optuna and last not in trial.values:
            del where["Optuna"]
        found += [
            f"trial {trial.number}: {trial.value}, its last epoch ({last}) is"
            f" {_or_nothing(value)} in {place}"
            for place, value in where.items()
            if not _same(value, trial.value)
        ]
    return found


def as_undisturbed(evidence: Evidence) -> list[str]:
    """A trial that was interrupted has the curves of one that was not."""
    found, rows = [], _rows(evidence.stores)
    for number, epochs in evidence.undisturbed.items():
        differing = [
            (epoch, key, rows.get(Point(number, key, epoch)), value)
            for epoch, metrics in sorted(epochs.items())
            for key, value in metrics.items()
            if not _same(rows.get(Point(number, key, epoch)), value)
        ]
        if differing:
            epoch, key, there, value = differing[0]
            found.append(
                f"trial {number}: {len(differing)} numbers differ, the first one {key} of epoch"
                f" {epoch}: {there}, undisturbed {value}"
            )
    return found


def same_settings(evidence: Evidence) -> list[str]:
    """A run's settings are its trial's."""
    return [
        f"trial {trial.number}: {name} is {value} in Optuna, {run.params.get(name, 'nothing')} in"
        " MLflow"
        for trial in evidence.stores.trials
        for run in evidence.stores.runs_of(trial.number)
        for name, value in trial.params.items()
        if not _logged_as(value, run.params.get(name))
    ]


def whole_runs(evidence: Evidence) -> list[str]:
    """The run of a trial with an epoch has all files that such a run has."""
    found = []
    for trial in evidence.stores.trials:
        for run in evidence.stores.runs_of(trial.number) if trial.values else ():
            if missing := evidence.artifacts - run.artifacts:
                found.append(f"{_named(run)} has no {', '.join(sorted(missing))}")
    return found


def saved_once(evidence: Evidence) -> list[str]:
    """What a checkpoint held is not trained again."""
    again: dict[int, list[int]] = {}
    for (number, epoch), times in sorted(evidence.saved.items()):
        if evidence.trained.get(number, {}).get(epoch, 0) != times:
            again.setdefault(number, []).append(epoch)
    return [
        f"trial {number}: epoch {_listed(epochs)} was saved" for number, epochs in again.items()
    ]


def no_tracebacks(evidence: Evidence) -> list[str]:
    """Drivers print no traceback."""
    return [_told(life) for life in evidence.lives for _ in range(life.tracebacks)]


def clear_ends(evidence: Evidence) -> list[str]:
    """A driver that ends by itself without success says why in its last line."""
    return [
        f"{_told(life)}"
        for life in evidence.lives
        if life.code is not None
        and life.code != 0
        and (life.code < 0 or life.tracebacks or not _clear(life.line))
    ]


def restarts_work(evidence: Evidence) -> list[str]:
    """The same command continues the study, and nothing but a full disk, or what it starts from
    breaking down meanwhile, ends a driver."""
    return [
        _told(life)
        for life in evidence.lives
        if life.code not in (None, 0)
        and "disk" not in life.faults
        and not {"raylet", "postgres"} & set(life.starting)
        and not ("raylet" in life.faults and _JOINING in life.line)
    ]


def all_ended(evidence: Evidence) -> list[str]:
    """No process outlives the last driver."""
    return [f"process {n + 1} of {evidence.left_over}" for n in range(evidence.left_over)]


def not_stuck(evidence: Evidence) -> list[str]:
    """The study advances."""
    return [evidence.stuck] if evidence.stuck else []


INVARIANTS: Final[dict[str, Invariant]] = {
    "trials not in one final state": unfinished,
    "trials that failed": none_failed,
    "trial numbers missing or twice": numbering,
    "trials missing, or beyond those asked for": asked,
    "trials without exactly one MLflow run": one_run_each,
    "states that disagree": states_agree,
    "MLflow runs left RUNNING": none_running,
    "(run, key, step) twice": none_twice,
    "epochs missing": no_gaps,
    "metrics lost or changed since a kill": nothing_lost,
    "epochs unlike in Optuna and MLflow": same_numbers,
    "final values unlike the metrics": final_values,
    "trials unlike undisturbed ones": as_undisturbed,
    "settings unlike in Optuna and MLflow": same_settings,
    "runs without one of their files": whole_runs,
    "trained again though it was saved": saved_once,
    "bare tracebacks": no_tracebacks,
    "ends without a clear line": clear_ends,
    "drivers that ended for no good reason": restarts_work,
    "processes left over": all_ended,
    "studies stuck": not_stuck,
}
"""What a violation is called, and who finds it."""


def check(evidence: Evidence) -> dict[str, list[str]]:
    """All violations by invariant."""
    return {title: invariant(evidence) for title, invariant in INVARIANTS.items()}


def _same(one: float | None, other: float | None) -> bool:
    """To the last bit."""
    return one == other or (one is not None and one != one and other is not None and other != other)


def _logged_as(value: object, text: str | None) -> bool:
    with contextlib.suppress(TypeError, ValueError):  # nothing there, or no number
        if isinstance(value, float) and float(text or "") == value:
            return True
    return text == str(value)


def _named(run: Run) -> str:
    return f"run {run.id[:8]}" + ("" if run.trial is None else f" of trial {run.trial}")


def _rows(stores: Stores) -> dict[Point, float]:
    """MLflow's metrics by trial. Of two rows or two runs the last."""
    return {
        Point(run.trial, row.key, row.step): row.value
        for run in stores.runs
        if run.trial is not None
        for row in run.rows
    }


def _gap(steps: set[int], last: int | None = None) -> str:
    if not steps:
        return ""
    end = max(steps) if last is None else last
    missing = sorted(set(range(1, end + 1)) - steps)
    below = sorted(step for step in steps if step < 1)
    return f"no epoch {_listed(missing)}" if missing else f"epoch {_listed(below)}" if below else ""


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" ..." if len(numbers) > 5 else "")


def _missing(
    where: str, before: Mapping[Point, float], now: Mapping[Point, list[float]]
) -> list[str]:
    return [
        f"{where}: trial {point.trial}, {point.key} of epoch {point.epoch}: was {value}, is"
        f" {now[point][-1] if point in now else 'gone'}"
        for point, value in sorted(before.items())
        if not any(_same(value, other) for other in now.get(point, []))
    ]


def _or_nothing(value: float | None) -> str:
    return "nothing" if value is None else str(value)


def _told(life: Life) -> str:
    given = ", ".join(life.faults) or "none"
    return (
        f"the driver of {life.began:.0f} to {life.ended:.0f} s (faults: {given}), exit code"
        f" {life.code}: {life.line or '(nothing on stderr)'}"
    )


def _clear(line: str) -> bool:
    """Words for a user: not nothing, and not a log line of Ray's core."""
    return bool(line) and not re.match(r"\[\d{4}-\d\d-\d\d |\*\*\* |E\d{4} ", line)
