"""Typed values out of parsed JSON: dataclasses of plain values, tuples, mappings and unions."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
_hints = cache(get_type_hints)


def decode(kind: type[_T], values: object) -> _T:
    """Build a dataclass, and those in its fields, out of parsed JSON. Raises ValueError for a field
    that is unknown, of another type, or missing although it has no default; the message names it.

    Args:
        kind: The dataclass.
        values: Result of `dataclasses.asdict` and `json.dumps`.
    """
    return cast(_T, _decode(kind, values, ""))


def required(kind: type[Any]) -> set[str]:
    """The fields of a dataclass that have no default, and so may not be missing."""
    missing = dataclasses.MISSING
    return {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is missing and field.default_factory is missing
    }


def _decode(kind: object, value: object, path: str) -> object:
    """`value` as the type hint `kind` has it; lists become tuples. path: for messages."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints, values = _hints(kind), value if isinstance(value, dict) else {}
        if wrong := sorted((values.keys() - hints.keys()) | (required(kind) - values.keys())):
            raise ValueError(f"{path.lstrip('.')}: {', '.join(wrong)} missing or unknown")
        return kind(
            **{name: _decode(hints[name], values[name], f"{path}.{name}") for name in values}
        )
    arguments = get_args(kind)
    match get_origin(kind):
        case origin if origin in (Union, UnionType):
            errors = []
            for argument in arguments:
                try:
                    return _decode(argument, value, path)
                except ValueError as error:
                    errors.append(error)
            raise errors[0]
        case origin if origin is Literal and value in arguments:
            return value
        case origin if origin is tuple and isinstance(value, list):
            kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
            if len(kinds) == len(value):
                pairs = enumerate(zip(kinds, value, strict=True))
                return tuple(_decode(item, entry, f"{path}[{i}]") for i, (item, entry) in pairs)
        case origin if origin is Mapping and isinstance(value, dict):
            return {
                name: _decode(arguments[1], entry, f"{path}[{name!r}]")
                for name, entry in value.items()
            }
        case None:
            if kind is Any or type(value) is kind or (kind is float and type(value) is int):
                return value
    raise ValueError(f"{path.lstrip('.')} is {str(value)[:40]!r}")
