"""The search space as data: a TOML file of dimensions, conditional ones included.

    description = "what this space is for"

    [dimensions.alpha]
    type = "float"            # float, int or categorical
    low = 1e-4
    high = 10.0
    log = true                # or step = 0.1

    [dimensions.heads]
    type = "categorical"
    choices = [1, 2, 4]
    when = { layers = [1, 2, 3] }   # asked for only where layers is one of these

    [[enqueue]]               # settings known to be good, tried first; the rest is sampled
    alpha = 1e-3

The order of the file is the order in which the sampler is asked, so a condition names a dimension
above it, or a setting that is not searched at all.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fdan.errors import ConfigError, unknown
from fdan.files import PROJECT_ROOT

Value = str | int | float | bool | None

FOLDER = PROJECT_ROOT / "search" / "spaces"

_KEYS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}


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
        """All values in order; None where there is no end of them."""
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
    """Dimensions in the order in which they are asked for, and settings to try first."""

    dimensions: tuple[Dimension, ...]
    enqueue: tuple[Mapping[str, Value], ...] = ()
    description: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Value]:
        """Ask for every active dimension, in order."""
        params: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.active(params):
                params[dimension.name] = _ask(trial, dimension)
        return params

    def resolve(self, settings: Mapping[str, Value], pinned: frozenset[str]) -> Space:
        """The space left when the `pinned` settings are not searched.

        `settings` holds the value of every setting where it is not searched. Conditions on those
        are decided here, once; an enqueued setting that contradicts a pinned one is dropped.
        """
        searched: set[str] = set()
        left = []
        for dimension in self.dimensions:
            fixed = {k: v for k, v in dimension.when.items() if k not in searched}
            open_ = {k: v for k, v in dimension.when.items() if k in searched}
            if dimension.name in pinned:
                continue
            if any(settings.get(name) not in values for name, values in fixed.items()):
                continue
            searched.add(dimension.name)
            left.append(replace(dimension, when=open_))
        enqueue: list[Mapping[str, Value]] = []
        for point in self.enqueue:
            if any(settings.get(name) != point[name] for name in point.keys() - searched):
                continue
            kept = {name: value for name, value in point.items() if name in searched}
            if kept and kept not in enqueue:
                enqueue.append(kept)
        return Space(tuple(left), tuple(enqueue), self.description)

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
        """For a study's identity: what is asked for, not what is tried first."""
        return {
            d.name: optuna.distributions.distribution_to_json(d.distribution)
            if not d.when
            else {
                "distribution": optuna.distributions.distribution_to_json(d.distribution),
                "when": {name: list(values) for name, values in d.when.items()},
            }
            for d in self.dimensions
        }


def names() -> list[str]:
    """The spaces shipped with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, known: Mapping[str, Value]) -> Space:
    """A shipped space by name, or a TOML file by path.

    `known` are the settings that a space may search (RunConfig's fields) with their defaults.
    """
    path = FOLDER / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
        if not path.is_file():
            if path.suffix != ".toml" and "/" not in name:
                raise ConfigError(f"--space: {unknown('space', name, names())}; or a TOML file")
            raise ConfigError(f"--space {name}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"--space {name}: cannot be read ({reason})") from None
    return parse(text, known, str(name))


def parse(text: str, known: Mapping[str, Value], where: str = "space") -> Space:
    """A space out of TOML text; raises ConfigError with the place and what would do."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: {error}") from None
    _known_keys(data, ("description", "dimensions", "enqueue"), where, "key")
    tables = data.get("dimensions")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{where}: no [dimensions.NAME] table, so there is nothing to search")
    dimensions: list[Dimension] = []
    for name, table in tables.items():
        place = f"{where}: dimensions.{name}"
        if name not in known:
            raise ConfigError(f"{place}: {unknown('setting', name, known)}")
        if name in ("epochs", "seed"):
            raise ConfigError(
                f"{place}: a study gives all its trials the same --{name}, so it is not searched"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{place}: expected a table with type, low, high or choices")
        dimensions.append(_dimension(name, table, tables, dimensions, known, place))
    by_name = {dimension.name: dimension for dimension in dimensions}
    points = data.get("enqueue", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ConfigError(f"{where}: enqueue: expected [[enqueue]] tables")
    for number, point in enumerate(points, 1):
        for name, value in point.items():
            place = f"{where}: enqueue {number}"
            if name not in by_name:
                raise ConfigError(f"{place}: {unknown('dimension', name, by_name)}")
            if not by_name[name].contains(value):
                raise ConfigError(f"{place}: {name} = {value} is outside {by_name[name]}")
    return Space(tuple(dimensions), tuple(points), str(data.get("description", "")))


def _dimension(
    name: str,
    table: dict[str, Any],
    tables: Mapping[str, Any],
    above: list[Dimension],
    known: Mapping[str, Value],
    place: str,
) -> Dimension:
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ConfigError(f"{place}: {unknown('type', str(kind), _KEYS)}")
    _known_keys(table, ("type", "when", *_KEYS[kind]), place, f"key of a {kind} dimension")
    return Dimension(
        name, _distribution(kind, table, place), _when(table, tables, above, known, place)
    )


def _distribution(kind: str, table: dict[str, Any], place: str) -> BaseDistribution:
    if kind == "categorical":
        choices = table.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{place}: choices = {choices!r}: expected a list of values")
        if any(not isinstance(choice, str | int | float | bool) for choice in choices):
            raise ConfigError(f"{place}: choices: expected text, numbers or true and false")
        if len({(type(choice), choice) for choice in choices}) < len(choices):
            raise ConfigError(f"{place}: choices: each value once")
        return CategoricalDistribution(choices)
    plain = int if kind == "int" else (int, float)
    for key in ("low", "high"):
        if key not in table:
            raise ConfigError(f"{place}: {key} is missing")
    for key in ("low", "high", "step"):
        value = table.get(key, 0)
        if not isinstance(value, plain) or isinstance(value, bool) or not math.isfinite(value):
            what = "a whole number" if kind == "int" else "a number"
            raise ConfigError(f"{place}: {key} = {value!r}: expected {what}")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"{place}: log = {log!r}: expected true or false")
    if low >= high:
        raise ConfigError(f"{place}: low = {low} is not below high = {high}")
    if log and step is not None:
        raise ConfigError(f"{place}: log and step exclude each other")
    if log and low <= 0:
        raise ConfigError(f"{place}: low = {low}: a log dimension lies above 0")
    if step is None:
        return (
            IntDistribution(low, high, log=log)
            if kind == "int"
            else FloatDistribution(low, high, log=log)
        )
    if step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise ConfigError(f"{place}: step = {step} does not lead from {low} to {high}")
    if kind == "int":
        return IntDistribution(low, high, step=step)
    return FloatDistribution(low, high, step=step)


def _when(
    table: dict[str, Any],
    tables: Mapping[str, Any],
    above: list[Dimension],
    known: Mapping[str, Value],
    place: str,
) -> dict[str, tuple[Value, ...]]:
    when = table.get("when", {})
    if not isinstance(when, dict):
        raise ConfigError(f"{place}: when: expected a table such as {{ layers = [1, 2] }}")
    earlier = {dimension.name: dimension for dimension in above}
    found: dict[str, tuple[Value, ...]] = {}
    for name, values in when.items():
        if name not in known:
            raise ConfigError(f"{place}: when: {unknown('setting', name, known)}")
        if name in tables and name not in earlier:
            raise ConfigError(f"{place}: when: {name} has to stand above, it is asked for later")
        listed = tuple(values) if isinstance(values, list) else (values,)
        for value in listed:
            if name in earlier and not earlier[name].contains(value):
                raise ConfigError(f"{place}: when: {name} is never {value}, it is {earlier[name]}")
        if not listed:
            raise ConfigError(f"{place}: when: {name} = []: expected at least one value")
        found[name] = listed
    return found


def _known_keys(table: Mapping[str, Any], keys: tuple[str, ...], place: str, what: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigError(f"{place}: {unknown(what, key, keys)}")


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


def _ask(trial: optuna.trial.BaseTrial, dimension: Dimension) -> Value:
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
