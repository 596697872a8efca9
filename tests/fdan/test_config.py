"""Configurations check themselves and name what is wrong."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import pytest

from fdan.cli.arguments import add_flags
from fdan.config import Above, Config, option
from fdan.errors import ConfigError


@dataclass(frozen=True)
class Example(Config):
    rate: float = option(0.1, "learning rate", unit="per step", low=Above(0.0))
    layers: int = option(1, "attention layers", low=0, high=8)
    mode: str = option("full", "what is trained", choices=("full", "frozen"))
    bandwidth: float | None = option(None, "fixed bandwidth", low=Above(0.0))
    augment: bool = option(True, "augmentation")


def test_defaults_and_round_trip() -> None:
    example = Example(layers=3, rate=1)
    assert example.rate == 1.0 and isinstance(example.rate, float)
    assert Example.from_mapping(example.as_dict()) == example


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layrs": 2}, "did you mean 'layers'"),
        ({"layers": -1}, "layers = -1: must be at least 0"),
        ({"layers": 9}, "at most 8"),
        ({"layers": 1.5}, "expected a whole number"),
        ({"layers": True}, "expected a whole number"),
        ({"rate": 0.0}, "greater than 0"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": None}, "expected a number"),
        ({"mode": "frozn"}, "did you mean 'frozen'"),
        ({"bandwidth": -1.0}, "greater than"),
        ({"augment": 1}, "true or false"),
    ],
)
def test_bad_values_name_the_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Example.from_mapping(values)


def test_flags_tell_given_from_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, Example)
    arguments = parser.parse_args(["--rate", "0.5", "--no-augment", "--bandwidth", "2"])
    assert Example.pick(vars(arguments)) == {"rate": 0.5, "augment": False, "bandwidth": 2.0}
    assert "(default: 0.1)" in parser.format_help()
    assert "[per step]" in parser.format_help()
