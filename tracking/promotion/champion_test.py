"""The winner of a study against the champion: the same data, and better on the same utterances.

One rule: a paired test says that it is better (p < 0.05), or it is not distinguishable, cheaper,
and a person accepts that. A significant loss is never accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import Comparison, compare
from fdan.inference.model_folder import SpeechModel, read_model
from tracking.promotion.challenger import Challenger
from tracking.promotion.gates import Gate, GateFailed, evaluate_gate
from tracking.registry.inference_cost import multiply_adds
from tracking.registry.registry import ModelVersion
from tracking.result import PREDICTIONS

SIGNIFICANT: Final = 0.05

SAME_DATA: Final = "data is the champion's"
BETTER: Final = "better than the champion"


@dataclass(frozen=True)
class Champion:
    """The version that the winner is compared with."""

    version: ModelVersion
    download: Callable[[], Path]
    """Returns its local folder."""

    @cached_property
    def folder(self) -> Path:
        try:
            return self.download()
        except FdanError as error:
            raise GateFailed(
                f"the champion {self.version} cannot be compared with: {error}"
            ) from None

    @cached_property
    def model(self) -> SpeechModel:
        return read_model(self.folder)

    @cached_property
    def predictions(self) -> Predictions:
        return Predictions.read(self.folder / PREDICTIONS)


def champion_gates(
    challenger: Challenger, champion: Champion | None, accept_tie: bool
) -> list[Gate]:
    """Evaluate the gates that are about the champion.

    Args:
        challenger: The winner.
        champion: None if there is none yet; the winner passes, then.
        accept_tie: Whether to pass a winner not distinguishable from the champion, but cheaper.
    """
    if champion is None:
        first = "there is no champion yet: the first one"
        return [Gate(SAME_DATA, True, first), Gate(BETTER, True, first)]
    same = evaluate_gate(SAME_DATA, lambda: _same_data(challenger, champion))
    if not same.passed:
        return [same, same.skip(BETTER)]
    return [same, evaluate_gate(BETTER, lambda: _better(challenger, champion, accept_tie))]


def _same_data(challenger: Challenger, champion: Champion) -> str:
    theirs, ours = champion.model.facts, challenger.result.origin
    for name in ("data", "split"):
        if theirs.get(name) != ours[name]:
            raise GateFailed(
                f"other {name} than the champion {champion.version}'s"
                f" ({_difference(theirs, ours, name)}): the two cannot be compared; another --name"
                " keeps a champion of its own"
            )
    return f"data and split of {champion.version}"


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any], name: str) -> str:
    if name == "data":
        return f"{str(ours[name])[:12]}, not {str(theirs.get(name))[:12]}"
    old, new = dict(theirs.get(name) or {}), dict(ours[name])
    keys = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {new.get(key)}, not {old.get(key)}" for key in keys)


def _better(challenger: Challenger, champion: Champion, accept_tie: bool) -> str:
    comparison = compare(challenger.predictions, champion.predictions)
    words = _describe(comparison, champion.version)
    match challenger_is(comparison):
        case "better":
            return f"better: {words}"
        case "worse":
            raise GateFailed(f"worse than the champion: {words}")
    if not accept_tie:
        raise GateFailed(
            f"not distinguishable from the champion: {words}; --accept-tie, if cheaper"
        )
    ours, theirs = multiply_adds(challenger.model), multiply_adds(champion.model)
    costs = f"{ours:,} multiply-adds an utterance, the champion {theirs:,}"
    if ours >= theirs:
        raise GateFailed(
            f"not distinguishable from the champion and not cheaper ({costs}): {words}"
        )
    return f"a tie, accepted because it is cheaper ({costs}): {words}"


def challenger_is(comparison: Comparison) -> Literal["better", "worse", "tie"]:
    """Verdict of a paired comparison on the challenger."""
    if comparison.p >= SIGNIFICANT:
        return "tie"
    return "better" if comparison.difference > 0 else "worse"


def _describe(comparison: Comparison, version: ModelVersion) -> str:
    return (
        f"UAR {comparison.difference:+.4f} against {version} (95 % {comparison.low:+.4f} to"
        f" {comparison.high:+.4f}, p = {comparison.p:.4f}) on {comparison.samples} utterances,"
        f" {comparison.disagreements} answered differently"
    )
