"""What attributes time to parts of the code names functions that the code has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import phases
from benchmarks.nodes import parts

ROOT = Path(__file__).parents[2]
RULES = [*phases._DRIVER, *phases._WORKER, (*phases._TRIAL, ""), *parts._PARTS]
OURS = [rule[:2] for rule in RULES if rule[0].startswith(str(ROOT))]


@pytest.mark.parametrize(("path", "names"), OURS)
def test_its_functions_exist(path: str, names: tuple[str, ...] | str) -> None:
    place = Path(path)
    assert place.exists() or list(place.parent.glob(f"{place.name}*")), path
    wanted = {names} if isinstance(names, str) else set(names)
    if wanted:
        tree = ast.walk(ast.parse(Path(path).read_text()))
        assert not wanted - {node.name for node in tree if isinstance(node, ast.FunctionDef)}
