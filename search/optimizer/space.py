"""The search space as data: dimensions, conditional ones included, and settings to try first.

`search.optimizer.space_file` reads it from TOML; the spaces themselves: search/spaces/*.toml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial, Trial

Value = str | int | float | bool | None
Distribution = CategoricalDistribution | IntDistribution | FloatDistribution


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter: Optuna's distribution and the values of others on which it depends."""

    name: str
    distribution: Distribution
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def active(self, params: Mapping[str, Value]) -> bool:
        return all(params.get(name) in values for name, values in self.when.items())

    @property
    def extremes(self) -> tuple[Value, ...]:
        """All choices, or both ends of the range: if these are valid, everything between is."""
        d = self.distribution
        return tuple(d.choices) if isinstance(d, CategoricalDistribution) else (d.low, d.high)

    def contains(self, value: Value) -> bool:
        """Whether a value can be enqueued here."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return any(value == choice and type(value) is type(choice) for choice in d.choices)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return (isinstance(value, int) or isinstance(d, FloatDistribution)) and d._contains(value)

    def values(self) -> list[Value] | None:
        """All values in order; None for a continuous dimension."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        if d.step is None:
            return None
        return [d.low + i * d.step for i in range(round((d.high - d.low) / d.step) + 1)]

    def __str__(self) -> str:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            text = ", ".join(map(str, d.choices))
        else:
            show, usual_step = (str, 1) if isinstance(d, IntDistribution) else ("{:g}".format, None)
            text = f"{show(d.low)} .. {show(d.high)}"
            if d.log:
                text += " log"
            elif d.step != usual_step:
                text += f" in steps of {show(d.step)}"
        for name, values in self.when.items():
            text += f", when {name} is {_listed(values)}"
        return text


@dataclass(frozen=True)
class Space:
    """Dimensions in the order in which they are suggested, and settings to try first."""

    dimensions: tuple[Dimension, ...]
    enqueue: tuple[Mapping[str, Value], ...] = ()
    description: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    def suggest(self, trial: Trial | FixedTrial) -> dict[str, Value]:
        """A trial's settings: every active dimension, in order."""
        params: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.active(params):
                name, distribution = dimension.name, dimension.distribution
                value: Any = trial._suggest(name, distribution)
                params[name] = int(value) if isinstance(distribution, IntDistribution) else value
        return params

    def resolve(self, settings: Mapping[str, Value], pinned: frozenset[str]) -> Space:
        """The space that remains when some settings are not searched.

        Conditions on those are decided here, once; an enqueued setting that contradicts a pinned
        one is dropped.

        Args:
            settings: The value of every setting where it is not searched.
            pinned: The settings that are not searched.
        """
        searched: set[str] = set()
        dimensions = []
        for dimension in self.dimensions:
            fixed = {k: v for k, v in dimension.when.items() if k not in searched}
            if dimension.name in pinned or any(
                settings.get(name) not in values for name, values in fixed.items()
            ):
                continue
            searched.add(dimension.name)
            when = {k: v for k, v in dimension.when.items() if k not in fixed}
            dimensions.append(replace(dimension, when=when))
        enqueue: list[Mapping[str, Value]] = []
        for point in self.enqueue:
            if any(settings.get(name) != point[name] for name in point.keys() - searched):
                continue
            remaining = {name: value for name, value in point.items() if name in searched}
            if remaining and remaining not in enqueue:
                enqueue.append(remaining)
        return Space(tuple(dimensions), tuple(enqueue), self.description)

    def continuous(self) -> list[str]:
        """Dimensions that a grid cannot enumerate."""
        return [d.name for d in self.dimensions if d.values() is None]

    def size(self) -> int | None:
        """How many different settings there are; None where a dimension is continuous."""
        return None if self.continuous() else sum(1 for _ in self.grid())

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination once, inactive dimensions left out."""
        yield from _expand(self.dimensions, {})

    def as_dict(self) -> dict[str, Any]:
        """The dimensions, for a study's identity; settings to try first are left out."""
        facts: dict[str, Any] = {}
        for dimension in self.dimensions:
            distribution = optuna.distributions.distribution_to_json(dimension.distribution)
            when = {name: list(values) for name, values in dimension.when.items()}
            facts[dimension.name] = (
                {"distribution": distribution, "when": when} if when else distribution
            )
        return facts


def _listed(values: tuple[Value, ...]) -> str:
    """
    >>> _listed((2, 3, 4)), _listed(("bank",)), _listed((1, 4))
    ('2 to 4', 'bank', '1 or 4')
    """
    first = values[0]
    run = isinstance(first, int) and values == tuple(range(first, first + len(values)))
    if run and len(values) > 2:
        return f"{first} to {values[-1]}"
    return " or ".join(str(value) for value in values)


def _expand(
    dimensions: tuple[Dimension, ...], params: dict[str, Value]
) -> Iterator[dict[str, Value]]:
    if not dimensions:
        yield params
        return
    head, *tail = dimensions
    values = head.values()
    assert values is not None, f"{head.name} is continuous"
    for point in [{head.name: value} for value in values] if head.active(params) else [{}]:
        yield from _expand(tuple(tail), params | point)
