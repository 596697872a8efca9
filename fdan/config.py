"""Configurations: frozen dataclasses that check themselves, from a mapping or a command line.

A configuration lives beside the code that reads it. Its fields are declared with `option`, which
carries the one-line help, the unit and the range; whoever builds one with a bad value gets a
ConfigError that names the field, the value and what would do.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypedDict, Unpack

from fdan.errors import ConfigError, unknown


class Above(float):
    """A lower bound that is itself out of range."""


class Details(TypedDict, total=False):
    """What else a field may say."""

    unit: str
    choices: Sequence[str]  # permitted values; empty: any
    low: float  # lower bound of a number; inclusive, unless it is Above(bound)
    high: float  # inclusive upper bound
    default_text: str  # what the help shows in place of the default itself
    parse: Callable[[str], Any]  # parser of text; its ValueError says what it expected


def option(default: Any, help: str, metavar: str = "", **details: Unpack[Details]) -> Any:
    """A field of a Config.

    Args:
        default: Value where none is given.
        help: Help in one line or several.
        metavar: The word that stands for a value in the help; empty: its type.
        details: See Details.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "metavar": metavar, **details}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configurations. Subclasses are frozen dataclasses whose fields are options."""

    def __post_init__(self) -> None:
        for field, kinds, optional in fields(type(self)):
            value = getattr(self, field.name)
            if value is None and optional:
                continue
            object.__setattr__(self, field.name, _checked(field, kinds, value))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "configuration") -> Self:
        """Build a configuration. ConfigError: a name is unknown (the nearest one is named), or a
        value is refused.

        Args:
            values: Values by name.
            where: Origin of the values, for messages.
        """
        check_names(values, cls.__dataclass_fields__, where)
        return cls(**values)

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that are fields of this configuration, to build it from."""
        return {name: value for name, value in values.items() if name in cls.__dataclass_fields__}

    @classmethod
    def check(cls, name: str, value: Any) -> Any:
        """The value as a field holds it. ConfigError if the field refuses it, whatever the others
        are.

        Args:
            name: The field's name.
            value: Value as a user or a space writes it.
        """
        for field, kinds, optional in fields(cls):
            if field.name == name and not (value is None and optional):
                return _checked(field, kinds, value)
        return value

    def as_dict(self) -> dict[str, Any]:
        """Plain names and values, ready for JSON."""
        return dataclasses.asdict(self)


def check_names(names: Iterable[str], known: Collection[str], where: str) -> None:
    """Refuse an unknown setting with a ConfigError that names the nearest known one.

    Args:
        names: Names of settings.
        known: All names that there are.
        where: Where the names stand, for the message.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: {unknown('setting', name, known)}")


def fields(
    config: type[Config],
) -> Iterator[tuple[dataclasses.Field[Any], tuple[type, ...], bool]]:
    """Each field with the plain types that it may have, and whether it may be None."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        union = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = tuple(typing.get_origin(kind) or kind for kind in union)
        plain = tuple(kind for kind in kinds if kind is not types.NoneType)
        yield field, plain, len(plain) < len(kinds)


_KINDS: Final = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _checked(field: dataclasses.Field[Any], kinds: tuple[type, ...], value: Any) -> Any:
    meta, name = field.metadata, field.name
    if meta.get("parse") and (isinstance(value, str) or str in kinds):
        try:
            value = meta["parse"](str(value))
        except ValueError as error:
            raise ConfigError(f"{name} = {value!r}: {error}") from None
    if kinds == (tuple,) and isinstance(value, list):
        value = tuple(value)
    if kinds == (Path,) and isinstance(value, str):
        value = Path(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name} = {value!r}: expected {_KINDS.get(kinds[0], kinds[0].__name__)}")
    if meta.get("choices") and value not in meta["choices"]:
        raise ConfigError(unknown(name, str(value), meta["choices"]))
    if not isinstance(value, int | float):
        return value
    low, high = meta.get("low", -math.inf), meta.get("high", math.inf)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value}: expected a finite number")
    if isinstance(low, Above) and value <= low:
        raise ConfigError(f"{name} = {value}: must be greater than {low}")
    if value < low:
        raise ConfigError(f"{name} = {value}: must be at least {low}")
    if value > high:
        raise ConfigError(f"{name} = {value}: must be at most {high}")
    return value
