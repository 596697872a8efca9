"""Configurations: frozen dataclasses that check themselves, from a mapping or a command line.

A configuration lives beside the code that reads it. Its fields are declared with `option`, which
carries the one-line help, the unit and the range; whoever builds one with a bad value gets a
ConfigError that names the field, the value and what would do.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fdan.errors import ConfigError, unknown

C = TypeVar("C", bound="Config")


def option(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A field of a Config: `low` and `high` are inclusive bounds, `above` an exclusive one."""
    meta = {
        "help": help,
        "unit": unit,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "above": above,
    }
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configurations. Subclasses are frozen dataclasses whose fields are options."""

    def __post_init__(self) -> None:
        for field, kind, optional in _fields(type(self)):
            value = getattr(self, field.name)
            if value is None and optional:
                continue
            object.__setattr__(self, field.name, _checked(field, kind, value))

    @classmethod
    def from_mapping(cls: type[C], values: Mapping[str, Any], where: str = "configuration") -> C:
        """Build from names and values. An unknown name is an error that names the nearest one."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"{where}: {unknown('setting', name, names)}")
        return cls(**values)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """ConfigError for a value that the field `name` refuses, whatever the others are."""
        for field, kind, optional in _fields(cls):
            if field.name == name and not (value is None and optional):
                _checked(field, kind, value)

    def as_dict(self) -> dict[str, Any]:
        """Plain names and values, ready for JSON."""
        return dataclasses.asdict(self)


def add_options(
    parser: argparse.ArgumentParser, config: type[Config], title: str, description: str = ""
) -> None:
    """One flag a field, grouped under `title`; a flag that is not given stays absent (SUPPRESS),
    so that the caller can tell a default from a choice."""
    group = parser.add_argument_group(title, description or None)
    for field, kind, _ in _fields(config):
        meta = field.metadata
        unit = f" [{meta['unit']}]" if meta["unit"] else ""
        default = "none" if field.default is None else _shown(field.default)
        text = f"{meta['help']}{unit} (default: {default})".replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        if kind is bool:
            group.add_argument(
                flag,
                dest=field.name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=text,
            )
            continue
        group.add_argument(
            flag,
            dest=field.name,
            type=kind,
            default=argparse.SUPPRESS,
            choices=meta["choices"] or None,
            metavar=None if meta["choices"] else kind.__name__.upper(),
            help=text,
        )


def given(config: type[Config], arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `config` that the command line named."""
    names = [field.name for field in dataclasses.fields(config)]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _fields(config: type[Config]) -> list[tuple[dataclasses.Field[Any], type, bool]]:
    """Each field with its plain type and whether it may be None."""
    hints = typing.get_type_hints(config)
    found = []
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [kind for kind in kinds if kind is not types.NoneType]
        assert len(plain) == 1, f"{config.__name__}.{field.name}: one plain type, or it and None"
        found.append((field, plain[0], len(plain) < len(kinds)))
    return found


def _checked(field: dataclasses.Field[Any], kind: type, value: Any) -> Any:
    meta, name = field.metadata, field.name
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{name} = {value!r}: expected {_article(kind.__name__)}")
    if meta.get("choices") and value not in meta["choices"]:
        raise ConfigError(unknown(name, str(value), meta["choices"]))
    low, high, above = meta.get("low"), meta.get("high"), meta.get("above")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value}: expected a finite number")
    if low is not None and value < low:
        raise ConfigError(f"{name} = {value}: must be at least {low}")
    if above is not None and value <= above:
        raise ConfigError(f"{name} = {value}: must be greater than {above}")
    if high is not None and value > high:
        raise ConfigError(f"{name} = {value}: must be at most {high}")
    return value


def _article(kind: str) -> str:
    words = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
    return words.get(kind, kind)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
