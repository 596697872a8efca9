"""Durations, values and settings as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping


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
