"""The promotion gates: what the winner of a study has to pass to become champion. The first ones
are about the study alone; then it must not have been rolled back before, champion_test.py compares
it with the champion, and last the package that would be registered must reproduce its predictions.

Each gate has its reason in words. Nothing here changes anything: the same gates answer `--dry-run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from fdan.errors import FdanError
from tracking.promotion.champion_test import (
    GateContext,
    GateFailed,
    better_than_champion,
    same_data,
)
from tracking.result import PREDICTIONS
from tracking.tags import COMPLETE

_TOLERANCE: Final = 1e-5
"""Tolerance of the packaged model's probabilities, against the stored ones."""


@dataclass(frozen=True)
class Gate:
    """Verdict of a gate on a challenger."""

    name: str
    passed: bool | None
    """None: not evaluated, since an earlier gate failed."""
    reason: str


def first_failed(gates: Iterable[Gate]) -> Gate | None:
    """The first gate that is not passed, or was not evaluated."""
    return next((gate for gate in gates if not gate.passed), None)


def evaluate_gates(context: GateContext, evaluate_all: bool) -> dict[str, Gate]:
    """Evaluate GATES in order; returns them by name.

    Args:
        context: The study's winner and its rival.
        evaluate_all: Whether to evaluate gates after a failed one, too, unless they need it.
    """
    gates: dict[str, Gate] = {}
    for gate in GATES:
        name, needs = gate.name, gate.needs if evaluate_all else None
        needed = gates.values() if needs is None else [gates[name] for name in needs]
        if failed := first_failed(needed):
            gates[name] = Gate(name, None, f"not evaluated: {failed.name}?")
            continue
        try:
            gates[name] = Gate(name, True, gate.check(context))
        except (FdanError, OSError) as error:
            gates[name] = Gate(name, False, " ".join(str(error).split()))
    return gates


def _study_finished(context: GateContext) -> str:
    result = context.challenger.result
    if result.state != COMPLETE:
        raise GateFailed(
            f"the study is {result.state} ({result.reason}); finish it: {result.command}"
        )
    return result.reason or result.state


def _winner_confirmed(context: GateContext) -> str:
    challenger, confirm = context.challenger, context.challenger.result.confirm
    if confirm is None:
        raise GateFailed(
            "no winner was confirmed with fresh seeds; the best of many trials is partly luck:"
            f" {challenger.result.command} --confirm 3"
        )
    model = challenger.model
    stored = (model.facts.get("trial"), model.facts.get("confirm_run"), model.run.training.seed)
    confirmed = (confirm.winner, confirm.run, confirm.seed)
    if stored != confirmed:
        raise GateFailed(
            f"{challenger.folder} holds trial {stored[0]}, run {stored[1]}, seed {stored[2]}; the"
            f" confirmed winner is trial {confirmed[0]}, run {confirmed[1]}, seed {confirmed[2]}"
        )
    return f"trial {confirm.winner}, of {len(confirm.settings)} settings with fresh seeds"


def _test_scored(context: GateContext) -> str:
    result, test = context.challenger.result, context.challenger.result.test
    if test is None:
        raise GateFailed(f"the test part was not scored: {result.command} --score-test")
    again = f", and {len(test.again)} times again" if test.again else ""
    return f"UAR {test.uar:.4f} on {test.samples} utterances, {test.scored[:10]}{again}"


def _invariants_hold(context: GateContext) -> str:
    checks = context.challenger.result.checks
    if failed := [check for check in checks if check.ok is not True]:
        raise GateFailed("; ".join(f"not so: {c.name} ({c.detail})" for c in failed))
    if not checks:
        raise GateFailed("the study checked nothing; run its command again")
    return f"{len(checks)} hold: " + "; ".join(str(check.name) for check in checks)


def _scored_model_unchanged(context: GateContext) -> str:
    challenger, test = context.challenger, context.challenger.result.test
    assert test is not None
    scored, stored = test.model_sha256, challenger.sha256
    if scored != stored:
        raise GateFailed(
            f"{challenger.tensors} is not what was scored: sha256 {stored[:12]}, not {scored[:12]}"
        )
    return f"sha256 {stored[:12]}"


def _scores_reproduced(context: GateContext) -> str:
    test, predictions = context.challenger.result.test, context.challenger.predictions
    assert test is not None
    measures = predictions.measures()
    for name in ("uar", "war", "wf1"):
        computed, recorded = getattr(measures, name), getattr(test, name)
        if abs(computed - recorded) > 1e-12:
            raise GateFailed(
                f"{PREDICTIONS} gives {name} {computed:.6f}, recorded is {recorded:.6f}"
            )
    if len(predictions) != test.samples:
        raise GateFailed(f"{PREDICTIONS} has {len(predictions)} utterances, not {test.samples}")
    return (
        f"{PREDICTIONS} gives WAR {measures.war:.4f}, UAR {measures.uar:.4f},"
        f" w-F1 {measures.wf1:.4f}"
    )


def _data_unchanged(context: GateContext) -> str:
    challenger, facts = context.challenger, context.challenger.model.facts
    for name in ("data", "split", "preparation"):
        if facts.get(name) != challenger.result.origin[name]:
            raise GateFailed(
                f"the model's {name} is not the study's: {challenger.folder} is another study's"
            )
    task, _ = challenger.data
    return f"{task.name}, fingerprint {task.fingerprint[:12]}"


def _not_rolled_back(context: GateContext) -> str:
    """A rerun does not undo a person's decision."""
    challenger, registry = context.challenger, context.challenger.registry
    if not challenger.tensors.is_file():
        raise GateFailed(f"there is no {challenger.tensors}")
    for version in registry.versions():
        if challenger.is_version(version) and "rolled_back" in version.tags:
            raise GateFailed(
                f"it was champion as {version} and {version.tags['rolled_back']}; if that was a"
                " mistake, remove that version's tag rolled_back in MLflow"
            )
    return f"no version of {registry.name} that was rolled back is this model"


def _package_reproduces_predictions(context: GateContext) -> str:
    """The package, loaded by itself, answers again. The last gate, since it takes seconds."""
    challenger = context.challenger
    task, split = challenger.data
    contents = task.samples("acoustic").contents
    stored = challenger.predictions
    if [contents[i] for i in split.acoustic_test.tolist()] != list(stored.contents):
        raise GateFailed(f"{PREDICTIONS} is not about the test part of the store")
    again = challenger.package_probabilities
    difference = float(np.abs(again - stored.probabilities[: len(again)]).max())
    if not difference <= _TOLERANCE:
        raise GateFailed(
            f"the packaged model's probabilities differ from {PREDICTIONS} by {difference:.1e}"
        )
    return f"{len(again)} utterances asked again, probabilities differ by {difference:.0e} at most"


@dataclass(frozen=True)
class _Rule:
    name: str
    check: Callable[[GateContext], str]
    """Returns why the gate is passed, or raises FdanError or OSError."""
    needs: tuple[str, ...] | None = None
    """Gates without which it cannot be evaluated; None: all before it."""


BETTER: Final = "better than the champion"

GATES: Final = (
    _Rule("study finished", _study_finished, ()),
    _Rule("winner confirmed", _winner_confirmed, ()),
    _Rule("test part scored", _test_scored, ()),
    _Rule("invariants hold", _invariants_hold, ()),
    _Rule("scored model unchanged", _scored_model_unchanged, ("test part scored",)),
    _Rule("scores reproduced", _scores_reproduced, ("test part scored",)),
    _Rule("data unchanged", _data_unchanged, ("winner confirmed",)),
    _Rule("not rolled back before", _not_rolled_back, ()),
    _Rule("data is the champion's", same_data),
    _Rule(BETTER, better_than_champion),
    _Rule(
        "package reproduces predictions",
        _package_reproduces_predictions,
        ("scored model unchanged", "scores reproduced", "data unchanged"),
    ),
)
