"""The search space as data: dimensions, conditional ones included, and settings to try first.

`search.optimizer.space_file` reads it from TOML; the spaces themselves: search/spaces/*.toml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter: Optuna's distribution and the values of others on which it depends."""

    name: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def active(self, params: Mapping[str, Value]) -> bool:
        return all(params.get(name) in values for name, values in self.when.items())

    @property
    def extremes(self) -> tuple[Value, ...]:
        """All choices, or both ends of the range: if these are valid, everything between is."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return tuple(choices)
            case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
                return low, high
        raise AssertionError(self.distribution)

    def contains(self, value: Value) -> bool:
        """Whether a value can be enqueued here."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return any(value == choice and type(value) is type(choice) for choice in choices)
            case IntDistribution() as d:
                return (
                    isinstance(value, int)
                    and not isinstance(value, bool)
                    and d.low <= value <= d.high
                    and (value - d.low) % d.step == 0
                )
            case FloatDistribution() as d:
                if not isinstance(value, int | float) or isinstance(value, bool):
                    return False
                steps = 0.0 if d.step is None else (value - d.low) / d.step
                return d.low <= value <= d.high and abs(steps - round(steps)) < 1e-6
        raise AssertionError(f"{self.name}: {self.distribution}")

    def values(self) -> list[Value] | None:
        """All values in order; None for a continuous dimension."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=step) if step is not None:
                return [low + i * step for i in range(round((high - low) / step) + 1)]
        return None

    def __str__(self) -> str:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                text = ", ".join(str(choice) for choice in choices)
            case IntDistribution() as d:
                text = f"{d.low} .. {d.high}"
                text += " log" if d.log else f" in steps of {d.step}" if d.step != 1 else ""
            case FloatDistribution() as d:
                text = f"{d.low:g} .. {d.high:g}"
                text += " log" if d.log else f" in steps of {d.step:g}" if d.step else ""
            case _:
                raise AssertionError(f"{self.name}: {self.distribution}")
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

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Value]:
        """A trial's settings: every active dimension, in order."""
        params: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.active(params):
                params[dimension.name] = _suggest(trial, dimension)
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


def _suggest(trial: optuna.trial.BaseTrial, dimension: Dimension) -> Value:
    match dimension.distribution:
        case CategoricalDistribution(choices=choices):
            chosen: Value = trial.suggest_categorical(dimension.name, choices)
            return chosen
        case IntDistribution() as d:
            return trial.suggest_int(dimension.name, d.low, d.high, step=d.step, log=d.log)
        case FloatDistribution() as d:
            return trial.suggest_float(dimension.name, d.low, d.high, step=d.step, log=d.log)
    raise AssertionError(dimension)


def _expand(
    dimensions: tuple[Dimension, ...], params: dict[str, Value]
) -> Iterator[dict[str, Value]]:
    if not dimensions:
        yield dict(params)
        return
    head, tail = dimensions[0], dimensions[1:]
    if not head.active(params):
        yield from _expand(tail, params)
        return
    values = head.values()
    assert values is not None, f"{head.name} is continuous"
    for value in values:
        yield from _expand(tail, params | {head.name: value})
