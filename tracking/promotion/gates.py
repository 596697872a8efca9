"""The promotion gates: what the winner of a study has to pass to become champion. The first ones
are about the study alone, the yardsticks among them; then it must not have been rolled back before
and is compared with the champion; last, the package that would be registered must reproduce its
predictions.

One rule for the champion: a paired test says that the winner is better (p < 0.05), or it is not
distinguishable, cheaper, and a person accepts that. A significant loss is never accepted.

One rule for the yardsticks, for the first champion, too: paired tests say that the winner is better
than each of them, or it is worse than none, and a person accepts that. No p is corrected for their
number. To be better than the best, every test has to say so, which chance does no more often than
the least of them alone (an intersection-union test): a correction would make the gate no safer. To
be worse than one, a single test is enough, and chance says that the more often the more yardsticks
there are: that is on the side of refusing.

Each gate has its reason in words. Nothing here changes anything: the same gates answer `--dry-run`.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import Comparison, compare
from fdan.inference.model_folder import SpeechModel, read_model
from tracking.promotion.challenger import Challenger, multiply_adds
from tracking.registry.registry import ModelVersion, RegistryError
from tracking.result import PREDICTIONS, YARDSTICK_PREDICTIONS
from tracking.tags import COMPLETE

_TOLERANCE: Final = 1e-5  # of the packaged model's probabilities, against the stored ones
_SIGNIFICANT: Final = 0.05
_ACCEPT: Final = "--accept-yardstick-tie"
_FIRST: Final = "there is no champion yet: the first one"


Standing = Literal["better", "worse", "tie"]
"""What paired comparisons say of the challenger."""


class GateFailed(FdanError):  # noqa: N818
    """The winner does not pass a gate; says why."""


@dataclass(frozen=True)
class Champion:
    """The version that the winner is compared with."""

    version: ModelVersion
    download: Callable[[], Path]  # returns its local folder

    @cached_property
    def folder(self) -> Path:
        try:
            return self.download()
        except FdanError as error:
            reason = f"the champion {self.version} cannot be compared with: {error}"
            raise GateFailed(reason) from None

    @cached_property
    def model(self) -> SpeechModel:
        return read_model(self.folder)

    @cached_property
    def predictions(self) -> Predictions:
        return Predictions.read(self.folder / PREDICTIONS)


@dataclass(frozen=True)
class GateContext:
    """What a promotion decides about."""

    challenger: Challenger
    champion: Champion | None  # None if there is none yet; the challenger passes, then
    accept_tie: bool  # pass a challenger not distinguishable from the champion, but cheaper
    accept_yardstick_tie: bool = False  # pass a challenger that is not better than each yardstick


@dataclass(frozen=True)
class Gate:
    """Verdict of a gate on a challenger."""

    name: str
    passed: bool | None  # None: not evaluated, since an earlier gate failed
    reason: str


def first_failed(gates: Iterable[Gate]) -> Gate | None:
    """The first gate that is not passed, or was not evaluated."""
    return next((gate for gate in gates if not gate.passed), None)


def evaluate_gates(context: GateContext, evaluate_all: bool) -> dict[str, Gate]:
    """Evaluate all gates in order; returns them by name.

    Args:
        context: The study's winner and its rival.
        evaluate_all: Whether to evaluate gates after a failed one, too, unless they need it.
    """
    gates: dict[str, Gate] = {}
    for name, check, needs in _GATES:
        by_name = gates if needs is None or not evaluate_all else needs
        if failed := first_failed(gates[need] for need in by_name):
            gates[name] = Gate(name, None, f"not evaluated: {failed.name}?")
            continue
        try:
            gates[name] = Gate(name, True, check(context))
        except RegistryError:  # which is no verdict
            raise
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
    confirm = result.confirm
    if confirm is not None and (test.trial, test.run) != (confirm.winner, confirm.run):
        raise GateFailed(
            f"the study has another winner since its test part was scored on {test.scored[:10]}:"
            f" trial {confirm.winner}, run {confirm.run}, not trial {test.trial}, run {test.run};"
            " whoever asks twice chooses by the test part; if it must be, say why with:"
            f" {result.command} --score-again 'REASON'"
        )
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
            values = f"{name} {computed:.6f}, recorded is {recorded:.6f}"
            raise GateFailed(f"{PREDICTIONS} gives {values}")
    if len(predictions) != test.samples:
        raise GateFailed(f"{PREDICTIONS} has {len(predictions)} utterances, not {test.samples}")
    values = f"WAR {measures.war:.4f}, UAR {measures.uar:.4f}, w-F1 {measures.wf1:.4f}"
    return f"{PREDICTIONS} gives {values}"


def _better_than_yardsticks(context: GateContext) -> str:
    challenger, test = context.challenger, context.challenger.result.test
    assert test is not None
    if not test.yardsticks:
        words = "no yardstick was measured on the test part"
        if context.accept_yardstick_tie:
            return f"{words}, accepted with {_ACCEPT}"
        raise GateFailed(
            f"{words} (by an earlier release, say): {challenger.result.command} --score-test"
            f" measures them, where it can; {_ACCEPT} promotes without"
        )
    for score in test.yardsticks:
        computed = challenger.yardsticks[score.title].measures().uar
        if abs(computed - score.uar) > 1e-12:
            values = f"UAR {computed:.6f}, recorded is {score.uar:.6f}"
            raise GateFailed(f"{YARDSTICK_PREDICTIONS.format(score.name)} gives {values}")
    comparisons = {
        title: compare(challenger.predictions, yardstick)
        for title, yardstick in challenger.yardsticks.items()
    }
    standing = beside_yardsticks(list(comparisons.values()))
    named = [
        f"{title} (UAR {c.difference:+z.4f}, 95 % {c.low:+z.4f} to {c.high:+z.4f}, p = {c.p:.4f})"
        for title, c in comparisons.items()
        if challenger_is(c) == standing
    ]
    words = f"{' and '.join(named)} on {test.samples} utterances"
    match standing:
        case "better":
            return f"better than {words}"
        case "worse":
            raise GateFailed(f"worse than the yardstick {words}")
    tie = f"not distinguishable from the yardstick {words}"
    if not context.accept_yardstick_tie:
        raise GateFailed(f"{tie}; {_ACCEPT} promotes it all the same")
    return f"{tie}, accepted with {_ACCEPT}"


def beside_yardsticks(comparisons: Sequence[Comparison]) -> Standing:
    """Verdict on a challenger that was compared with each yardstick: better than all of them, worse
    than one, or neither."""
    verdicts = [challenger_is(comparison) for comparison in comparisons]
    if "worse" in verdicts:
        return "worse"
    return "tie" if "tie" in verdicts else "better"


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


def _same_data(context: GateContext) -> str:
    if (champion := context.champion) is None:
        return _FIRST
    theirs, ours = champion.model.facts, context.challenger.result.origin
    for name in ("data", "split"):
        if _without_folds(theirs.get(name)) != _without_folds(ours[name]):
            challenger = context.challenger
            study, name_of_its_own = challenger.folder.parent, f"fdan-{challenger.result.study}"
            raise GateFailed(
                f"the champion {champion.version} is of {_other_data(theirs, ours, name)}: the two"
                " cannot be compared. Give this data a champion of its own: python -m tracking"
                f" promote {shlex.quote(str(study))} --name {name_of_its_own}"
            )
    return f"data and split of {champion.version}"


def _without_folds(fact: object) -> object:
    """Folds divide what the test part leaves, which is the same with any."""
    return {k: v for k, v in fact.items() if k != "folds"} if isinstance(fact, Mapping) else fact


def _other_data(theirs: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> str:
    if name == "data":
        tasks = theirs.get("task"), ours["task"]
        if tasks[0] != tasks[1]:
            return f"another corpus ({tasks[0]}, this study of {tasks[1]})"
        prints = str(theirs.get(name))[:12], str(ours[name])[:12]
        return f"other files of {tasks[1]} (fingerprint {prints[0]}, this study's {prints[1]})"
    old, new = dict(theirs.get(name) or {}), dict(ours[name])
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    changes = ", ".join(f"{key} {old.get(key)}, here {new.get(key)}" for key in keys)
    return f"another split ({changes})"


def _better_than_champion(context: GateContext) -> str:
    challenger = context.challenger
    if (champion := context.champion) is None:
        return _FIRST
    comparison = compare(challenger.predictions, champion.predictions)
    words = (
        f"UAR {comparison.difference:+z.4f} against {champion.version} (95 % {comparison.low:+z.4f}"
        f" to {comparison.high:+z.4f}, p = {comparison.p:.4f}) on {comparison.samples} utterances,"
        f" {comparison.disagreements} answered differently"
    )
    match challenger_is(comparison):
        case "better":
            return f"better: {words}"
        case "worse":
            raise GateFailed(f"worse than the champion: {words}")
    tie = "not distinguishable from the champion"
    if not context.accept_tie:
        raise GateFailed(f"{tie}: {words}; --accept-tie, if cheaper")
    ours, theirs = multiply_adds(challenger.model), multiply_adds(champion.model)
    costs = f"{ours:,} multiply-adds an utterance, the champion {theirs:,}"
    if ours >= theirs:
        raise GateFailed(f"{tie} and not cheaper ({costs}): {words}")
    return f"a tie, accepted because it is cheaper ({costs}): {words}"


def challenger_is(comparison: Comparison) -> Standing:
    """Verdict of a paired comparison on the challenger."""
    if comparison.p >= _SIGNIFICANT:
        return "tie"
    return "better" if comparison.difference > 0 else "worse"


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


YARDSTICKS: Final = "better than the yardsticks"
BETTER: Final = "better than the champion"

# Name of a gate; its check, which returns why it is passed, or raises FdanError or OSError; gates
# without which it cannot be evaluated, None for all before it.
_GATES: Final[tuple[tuple[str, Callable[[GateContext], str], tuple[str, ...] | None], ...]] = (
    ("study finished", _study_finished, ()),
    ("winner confirmed", _winner_confirmed, ()),
    ("test part scored", _test_scored, ()),
    ("invariants hold", _invariants_hold, ()),
    ("scored model unchanged", _scored_model_unchanged, ("test part scored",)),
    ("scores reproduced", _scores_reproduced, ("test part scored",)),
    (YARDSTICKS, _better_than_yardsticks, ("test part scored", "scores reproduced")),
    ("data unchanged", _data_unchanged, ("winner confirmed",)),
    ("not rolled back before", _not_rolled_back, ()),
    ("data is the champion's", _same_data, None),
    (BETTER, _better_than_champion, None),
    (
        "package reproduces predictions",
        _package_reproduces_predictions,
        ("scored model unchanged", "scores reproduced", "data unchanged"),
    ),
)
