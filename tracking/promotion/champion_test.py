"""The winner of a study against the champion: the same data, and better on the same utterances.

One rule: a paired test says that it is better (p < 0.05), or it is as good as can be told, cheaper,
and a person accepts that. A significant loss is never accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import Comparison, compare
from fdan.inference.model_folder import SpeechModel, read_model
from tracking.promotion.gates import Challenger, Closed, Gate, looked
from tracking.registry.download import fetch
from tracking.registry.inference_cost import multiply_adds
from tracking.registry.registry import Registry, Version
from tracking.result import PREDICTIONS

SIGNIFICANT: Final = 0.05

SAME: Final = "data is the champion's"
BETTER: Final = "better than the champion"


@dataclass(frozen=True)
class Champion:
    """The version that the winner is compared with, and its local folder."""

    version: Version
    folder: Path

    @classmethod
    def of(cls, registry: Registry, version: Version) -> Champion:
        """Download it. Raises Closed where it cannot be compared with."""
        try:
            return cls(version, fetch(registry, version))
        except FdanError as error:
            raise Closed(f"the champion {version} cannot be compared with: {error}") from None

    @cached_property
    def model(self) -> SpeechModel:
        return read_model(self.folder)

    @cached_property
    def answers(self) -> Predictions:
        return Predictions.read(self.folder / PREDICTIONS)


def against(of: Challenger, champion: Champion | None, accept_tie: bool) -> list[Gate]:
    """The gates that ask about the champion: the same data, and better on the same utterances."""
    if champion is None:
        first = "there is no champion yet: the first one"
        return [Gate(SAME, True, first), Gate(BETTER, True, first)]
    same = looked(SAME, lambda: _same_task(of, champion))
    if not same.ok:
        return [same, Gate(BETTER, None, f"not looked at: {SAME}?")]
    return [same, looked(BETTER, lambda: _better(of, champion, accept_tie))]


def _same_task(of: Challenger, champion: Champion) -> str:
    theirs, ours = champion.model.facts, of.result.origin
    for name in ("data", "split"):
        if theirs.get(name) != ours[name]:
            raise Closed(
                f"other {name} than the champion {champion.version}'s"
                f" ({_differ(theirs, ours, name)}): the two cannot be compared; another --name"
                " keeps a champion of its own"
            )
    return f"data and split of {champion.version}"


def _differ(theirs: Any, ours: Any, name: str) -> str:
    if name == "data":
        return f"{str(ours[name])[:12]}, not {str(theirs.get(name))[:12]}"
    there, here = dict(theirs.get(name) or {}), dict(ours[name])
    keys = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
    return ", ".join(f"{key} {here.get(key)}, not {there.get(key)}" for key in keys)


def _better(of: Challenger, champion: Champion, accept_tie: bool) -> str:
    found = compare(of.answers, champion.answers)
    words = in_words(found, champion.version)
    match ruling(found):
        case "better":
            return f"better: {words}"
        case "worse":
            raise Closed(f"worse than the champion: {words}")
    if not accept_tie:
        raise Closed(f"not distinguishable from the champion: {words}; --accept-tie, if cheaper")
    ours, theirs = multiply_adds(of.model), multiply_adds(champion.model)
    costs = f"{ours:,} multiply-adds an utterance, the champion {theirs:,}"
    if ours >= theirs:
        raise Closed(f"not distinguishable from the champion and not cheaper ({costs}): {words}")
    return f"a tie, accepted because it is cheaper ({costs}): {words}"


def ruling(found: Comparison) -> Literal["better", "worse", "tie"]:
    """What a paired comparison says of the challenger."""
    if found.p >= SIGNIFICANT:
        return "tie"
    return "better" if found.difference > 0 else "worse"


def in_words(found: Comparison, version: Version) -> str:
    """The paired comparison in a sentence's end."""
    return (
        f"UAR {found.difference:+.4f} against {version} (95 % {found.low:+.4f} to"
        f" {found.high:+.4f}, p = {found.p:.4f}) on {found.samples} utterances,"
        f" {found.disagreements} answered differently"
    )
