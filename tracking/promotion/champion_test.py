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
from tracking.promotion.challenger import Challenger, multiply_adds
from tracking.registry.registry import ModelVersion
from tracking.result import PREDICTIONS

SIGNIFICANT: Final = 0.05


_FIRST: Final = "there is no champion yet: the first one"


class GateFailed(FdanError):  # noqa: N818
    """The winner does not pass a gate; says why."""


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


@dataclass(frozen=True)
class GateContext:
    """What a promotion decides about."""

    challenger: Challenger
    champion: Champion | None
    """None if there is none yet; the challenger passes, then."""
    accept_tie: bool
    """Whether to pass a challenger not distinguishable from the champion, but cheaper."""


def same_data(context: GateContext) -> str:
    """Why the two can be compared. Raises GateFailed if they cannot."""
    if (champion := context.champion) is None:
        return _FIRST
    theirs, ours = champion.model.facts, context.challenger.result.origin
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


def better_than_champion(context: GateContext) -> str:
    """Why the challenger wins. Raises GateFailed if it does not."""
    challenger = context.challenger
    if (champion := context.champion) is None:
        return _FIRST
    comparison = compare(challenger.predictions, champion.predictions)
    words = (
        f"UAR {comparison.difference:+.4f} against {champion.version} (95 % {comparison.low:+.4f}"
        f" to {comparison.high:+.4f}, p = {comparison.p:.4f}) on {comparison.samples} utterances,"
        f" {comparison.disagreements} answered differently"
    )
    match challenger_is(comparison):
        case "better":
            return f"better: {words}"
        case "worse":
            raise GateFailed(f"worse than the champion: {words}")
    if not context.accept_tie:
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
