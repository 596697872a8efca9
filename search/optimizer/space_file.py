"""A search space's TOML file: one of those shipped in search/spaces, or a user's own.

    [dimensions.NAME]   type = "float" or "int" with low, high and log = true or step, or
                        type = "categorical" with choices; suggested only `when` others have values
    [[enqueue]]         settings known to be good, tried first; the rest is sampled

The sampler suggests dimensions in the order of the file, so a condition names a dimension above it,
or a setting that is not searched at all.
"""

import math
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from fdan.errors import ConfigError, unknown
from fdan.files import PROJECT_ROOT, read_text
from search.optimizer.space import Dimension, Distribution, Space, Value

SPACES_FOLDER = PROJECT_ROOT / "search" / "spaces"

_NUMBER_KEYS = ("low", "high", "log", "step")
_KEYS = {"float": _NUMBER_KEYS, "int": _NUMBER_KEYS, "categorical": ("choices",)}


def shipped_spaces() -> list[str]:
    """The spaces shipped with the project."""
    return sorted(path.stem for path in SPACES_FOLDER.glob("*.toml"))


def load_space(name: str, known: Mapping[str, Value]) -> Space:
    """A shipped space by name, or a TOML file by path.

    Args:
        name: Name of a space, or a path.
        known: The settings that a space may search (RunConfig's fields) with their defaults.

    Raises:
        ConfigError: There is no such space, or it is not right.
    """
    shipped = shipped_spaces()
    path = SPACES_FOLDER / f"{name}.toml" if name in shipped else Path(name)
    if not path.is_file():
        if path.suffix != ".toml" and "/" not in name:
            raise ConfigError(f"--space: {unknown('space', name, shipped)}; or a TOML file")
        raise ConfigError(f"--space {name}: no such file")
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"--space {name}: cannot be read ({reason})") from None
    return parse_space(text, known, name)


def parse_space(text: str, known: Mapping[str, Value], where: str = "space") -> Space:
    """A space out of TOML text.

    Args:
        text: The file's content.
        known: The settings that a space may search, with their defaults.
        where: Name of the file in error messages.

    Raises:
        ConfigError: With the place in the file, and what would do.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not a TOML file: {error}") from None
    _check_keys(data, ("description", "dimensions", "enqueue"), where, "key")
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
        kind = table.get("type")
        if not isinstance(kind, str) or kind not in _KEYS:
            raise ConfigError(f"{place}: {unknown('type', str(kind), _KEYS)}")
        _check_keys(table, ("type", "when", *_KEYS[kind]), place, f"key of a {kind} dimension")
        distribution = _distribution(kind, table, place)
        earlier = {dimension.name: dimension for dimension in dimensions}
        when = _conditions(table.get("when", {}), earlier, tables.keys(), known, place)
        dimensions.append(Dimension(name, distribution, when))
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


def _distribution(kind: str, table: dict[str, Any], place: str) -> Distribution:
    if kind == "categorical":
        choices = table.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{place}: choices = {choices!r}: expected a list of values")
        if any(not isinstance(choice, str | int | float | bool) for choice in choices):
            raise ConfigError(f"{place}: choices: expected text, numbers or true and false")
        if len({(type(choice), choice) for choice in choices}) < len(choices):
            raise ConfigError(f"{place}: choices: each value once")
        return CategoricalDistribution(choices)
    whole = kind == "int"
    for key in ("low", "high"):
        if key not in table:
            raise ConfigError(f"{place}: {key} is missing")
    for key in ("low", "high", "step"):
        value = table.get(key, 0)
        plain = isinstance(value, int) or (isinstance(value, float) and not whole)
        if not plain or isinstance(value, bool) or not math.isfinite(value):
            expected = "a whole number" if whole else "a number"
            raise ConfigError(f"{place}: {key} = {value!r}: expected {expected}")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"{place}: log = {log!r}: expected true or false")
    if low >= high:
        raise ConfigError(f"{place}: low = {low} is not below high = {high}")
    if log and step is not None:
        raise ConfigError(f"{place}: log and step exclude each other")
    if log and low <= 0:
        raise ConfigError(f"{place}: low = {low}: a log dimension lies above 0")
    make = IntDistribution if whole else FloatDistribution
    if step is None:
        return make(low, high, log=log)
    if step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-6:
        raise ConfigError(f"{place}: step = {step} does not lead from {low} to {high}")
    return make(low, high, step=step)


def _conditions(
    when: object,
    earlier: Mapping[str, Dimension],
    searched: Collection[str],
    known: Mapping[str, Value],
    place: str,
) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, dict):
        raise ConfigError(f"{place}: when: expected a table such as {{ layers = [1, 2] }}")
    conditions: dict[str, tuple[Value, ...]] = {}
    for name, listed in when.items():
        if name not in known:
            raise ConfigError(f"{place}: when: {unknown('setting', name, known)}")
        if name in searched and name not in earlier:
            raise ConfigError(f"{place}: when: {name} has to stand above, it is suggested later")
        values = tuple(listed) if isinstance(listed, list) else (listed,)
        for value in values:
            if name in earlier and not earlier[name].contains(value):
                raise ConfigError(f"{place}: when: {name} is never {value}, it is {earlier[name]}")
        if not values:
            raise ConfigError(f"{place}: when: {name} = []: expected at least one value")
        conditions[name] = values
    return conditions


def _check_keys(table: Mapping[str, Any], keys: tuple[str, ...], place: str, what: str) -> None:
    for key in table:
        if key not in keys:
            raise ConfigError(f"{place}: {unknown(what, key, keys)}")
