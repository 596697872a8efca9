"""Durations, values and settings as the terminal shows them, and times as a user types them."""

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final


def format_value(value: object) -> str:
    """A value with three significant digits if it is a float, or as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def format_settings(params: Mapping[str, object]) -> str:
    """Hyperparameters in one line."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in params.items())


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(8.2), format_duration(95), format_duration(7300)
    ('8s', '1m35s', '2h01m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def relative_path(path: Path) -> str:
    """As short as one can type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_time(text: str) -> float:
    """Seconds of a text such as 90s, 1h30m or 2h."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or total <= 0:
        raise ValueError("expected a time such as 90s, 30m or 2h")
    return total


def format_time(seconds: float) -> str:
    """The text that `parse_time` reads back: 1h30m, 0.25s."""
    if seconds != int(seconds):
        return f"{Decimal(repr(seconds)):f}s"
    text, left = "", int(seconds)
    for unit, size in _UNITS.items():
        text += f"{left // size}{unit}" if left >= size else ""
        left %= size
    return text
