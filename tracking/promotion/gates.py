"""The promotion gates: what the winner of a study has to pass to become champion. STUDY_GATES are
about the study alone; then it must not have been rolled back before, champion_test.py compares it
with the champion, and last the package that would be registered must reproduce its predictions.

Each gate has its reason in words. Nothing here changes anything: the same gates answer `--dry-run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from fdan.errors import FdanError
from tracking.promotion.challenger import Challenger
from tracking.registry.registry import Registry
from tracking.result import PREDICTIONS
from tracking.tags import COMPLETE

_TOLERANCE: Final = 1e-5
"""Tolerance of the packaged model's probabilities, against the stored ones."""


class GateFailed(FdanError):  # noqa: N818
    """The winner does not pass a gate; says why."""


@dataclass(frozen=True)
class Gate:
    """Verdict of a gate on a challenger."""

    name: str
    passed: bool | None
    """None: not evaluated, since an earlier gate failed."""
    reason: str

    def skip(self, name: str) -> Gate:
        """A gate of that name, which is not evaluated since this one failed."""
        return Gate(name, None, f"not evaluated: {self.name}?")


def evaluate_gate(name: str, check: Callable[[], str]) -> Gate:
    """Evaluate one gate.

    Args:
        name: Name of the gate.
        check: Function that returns why it is passed, or raises FdanError or OSError.
    """
    try:
        return Gate(name, True, check())
    except (FdanError, OSError) as error:
        return Gate(name, False, " ".join(str(error).split()))


def first_failed(gates: list[Gate]) -> Gate | None:
    """The first gate that is not passed, or was not evaluated."""
    return next((gate for gate in gates if not gate.passed), None)


def evaluate_study_gates(challenger: Challenger, evaluate_all: bool) -> list[Gate]:
    """Evaluate STUDY_GATES, in order.

    Args:
        challenger: The study's winner.
        evaluate_all: Whether to evaluate gates after a failed one, too, unless they need it.
    """
    gates: dict[str, Gate] = {}
    for gate in STUDY_GATES:
        needed = [gates[name] for name in gate.needs] if evaluate_all else list(gates.values())
        failed = first_failed(needed)
        check = partial(gate.check, challenger)
        gates[gate.name] = failed.skip(gate.name) if failed else evaluate_gate(gate.name, check)
    return list(gates.values())


def _study_finished(challenger: Challenger) -> str:
    result = challenger.result
    if result.state != COMPLETE:
        raise GateFailed(
            f"the study is {result.state} ({result.reason}); finish it: {result.command}"
        )
    return result.reason or result.state


def _winner_confirmed(challenger: Challenger) -> str:
    confirm = challenger.result.confirm
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


def _test_scored(challenger: Challenger) -> str:
    test = challenger.result.test
    if test is None:
        raise GateFailed(f"the test part was not scored: {challenger.result.command} --score-test")
    again = f", and {len(test.again)} times again" if test.again else ""
    return f"UAR {test.uar:.4f} on {test.samples} utterances, {test.scored[:10]}{again}"


def _invariants_hold(challenger: Challenger) -> str:
    checks = challenger.result.checks
    if failed := [check for check in checks if check.ok is not True]:
        raise GateFailed("; ".join(f"not so: {c.name} ({c.detail})" for c in failed))
    if not checks:
        raise GateFailed("the study checked nothing; run its command again")
    return f"{len(checks)} hold: " + "; ".join(str(check.name) for check in checks)


def _scored_model_unchanged(challenger: Challenger) -> str:
    assert challenger.result.test is not None
    scored, stored = challenger.result.test.model_sha256, challenger.sha256
    if scored != stored:
        raise GateFailed(
            f"{challenger.tensors} is not what was scored: sha256 {stored[:12]}, not {scored[:12]}"
        )
    return f"sha256 {stored[:12]}"


def _scores_reproduced(challenger: Challenger) -> str:
    test, predictions = challenger.result.test, challenger.predictions
    assert test is not None
    measures = predictions.measures()
    for name in ("uar", "war", "wf1"):
        if abs(getattr(measures, name) - getattr(test, name)) > 1e-12:
            raise GateFailed(
                f"{PREDICTIONS} gives {name} {getattr(measures, name):.6f}, recorded is"
                f" {getattr(test, name):.6f}"
            )
    if len(predictions) != test.samples:
        raise GateFailed(f"{PREDICTIONS} has {len(predictions)} utterances, not {test.samples}")
    return (
        f"{PREDICTIONS} gives WAR {measures.war:.4f}, UAR {measures.uar:.4f},"
        f" w-F1 {measures.wf1:.4f}"
    )


def _data_unchanged(challenger: Challenger) -> str:
    facts = challenger.model.facts
    for name in ("data", "split", "preparation"):
        if facts.get(name) != challenger.result.origin[name]:
            raise GateFailed(
                f"the model's {name} is not the study's: {challenger.folder} is another study's"
            )
    task, _ = challenger.data
    return f"{task.name}, fingerprint {task.fingerprint[:12]}"


@dataclass(frozen=True)
class _StudyGate:
    name: str
    check: Callable[[Challenger], str]
    needs: tuple[str, ...] = ()


STUDY_GATES: Final = (
    _StudyGate("study finished", _study_finished),
    _StudyGate("winner confirmed", _winner_confirmed),
    _StudyGate("test part scored", _test_scored),
    _StudyGate("invariants hold", _invariants_hold),
    _StudyGate("scored model unchanged", _scored_model_unchanged, ("test part scored",)),
    _StudyGate("scores reproduced", _scores_reproduced, ("test part scored",)),
    _StudyGate("data unchanged", _data_unchanged, ("winner confirmed",)),
)


def not_rolled_back(challenger: Challenger, registry: Registry) -> Gate:
    """The gate "not rolled back before": a rerun does not undo a person's decision.

    Args:
        challenger: The winner.
        registry: Registry that knows which versions were rolled back.
    """
    name = "not rolled back before"
    if not challenger.tensors.is_file():
        return Gate(name, None, f"not evaluated: there is no {challenger.tensors}")
    for version in registry.versions():
        if challenger.is_version(version) and "rolled_back" in version.tags:
            return Gate(
                name,
                False,
                f"it was champion as {version} and {version.tags['rolled_back']}; if that was a"
                " mistake, remove that version's tag rolled_back in MLflow",
            )
    return Gate(name, True, f"no version of {registry.name} that was rolled back is this model")


_PACKAGE: Final = "package reproduces predictions"
_PACKAGE_NEEDS: Final = ("scored model unchanged", "scores reproduced", "data unchanged")


def package_reproduces_predictions(
    challenger: Challenger, gates: list[Gate], evaluate_all: bool
) -> Gate:
    """The last gate, since it takes seconds: the package, loaded by itself, answers again.

    Args:
        challenger: The winner.
        gates: All other gates.
        evaluate_all: Whether to evaluate it though others failed, unless it needs them.
    """
    needed = [gate for gate in gates if gate.name in _PACKAGE_NEEDS] if evaluate_all else gates
    if failed := first_failed(needed):
        return failed.skip(_PACKAGE)
    return evaluate_gate(_PACKAGE, lambda: _package_reproduces_predictions(challenger))


def _package_reproduces_predictions(challenger: Challenger) -> str:
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
