"""A study's options as a TOML file: `search/run.py --config FILE` reads what `--print-config`
writes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fdan.errors import ConfigError, unknown
from search.config.options import SECTIONS, normalize, sections


def read_options(file: Path) -> dict[str, Any]:
    """The options that a file gives.

    Raises:
        ConfigError: It cannot be read, or has an unknown key (the nearest known one is named) or a
            value that is refused.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--config {file}: is not a TOML file: {error}") from None
    return from_sections(data, str(file))


def from_sections(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a mapping of sections.

    Args:
        data: Section -> option -> value.
        where: The file that it comes from, for messages.

    Raises:
        ConfigError: As `read_options`.
    """
    options: dict[str, Any] = {}
    for section, table in data.items():
        if section not in SECTIONS:
            raise ConfigError(f"{where}: {unknown('section', section, SECTIONS)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {section} = {table!r}: expected a table [{section}]")
        known = [name for config in SECTIONS[section] for name in config.__dataclass_fields__]
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in known:
                raise ConfigError(f"{where}: [{section}]: {unknown('key', key, known)}")
            try:
                options |= normalize({name: value})
            except ConfigError as error:
                raise ConfigError(f"{where}: [{section}]: {error}") from None
    return options


def to_toml(options: Mapping[str, Any]) -> str:
    """The text of the file that gives these options. Passwords are masked."""
    lines = ["# python search/run.py --config FILE runs this study; flags win over the file."]
    for section, table in sections(options).items():
        lines += ["", f"[{section}]", *(f"{name} = {_value(v)}" for name, v in table.items())]
    # TOML is UTF-8: what is not, a file's name out of an old archive say, ends no study.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode()


def _value(value: Any) -> str:
    """JSON's literals are TOML's, but for one character that TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
