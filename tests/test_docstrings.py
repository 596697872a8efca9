"""Public functions with two or more parameters say what each of them is.

Public: no name on the way begins with an underscore, and it stands in a module or in a class of
one. A method of a class that has a base class is described by its base.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PLAIN = {"Protocol", "ABC", "object", "Generic", "NamedTuple", "Exception"}


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = {ast.unparse(base).partition("[")[0].split(".")[-1] for base in node.bases}
            if bases <= PLAIN:
                yield from public(node.body, f"{node.name}.")


def undescribed(file: Path) -> list[str]:
    missing = []
    for name, function in public(ast.parse(file.read_text()).body):
        given = function.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names += [a.arg for a in (given.vararg, given.kwarg) if a is not None]
        names = [name for name in names if name not in ("self", "cls")]
        text = ast.get_docstring(function) or ""
        if len(names) >= 2 and "Args:" not in text:
            missing.append(f"{file.relative_to(ROOT)}: {name} has no Args:")
        elif len(names) >= 2:
            described = text.partition("Args:")[2]
            missing += [
                f"{file.relative_to(ROOT)}: {name} does not describe {name_}"
                for name_ in names
                if f"{name_}:" not in described and f"{name_}`" not in described
            ]
    return missing


def test_public_functions_describe_their_parameters() -> None:
    missing = [
        line
        for package in ("fdan", "search", "tracking")
        for file in sorted((ROOT / package).rglob("*.py"))
        for line in undescribed(file)
    ]
    assert not missing, f"{len(missing)}:\n" + "\n".join(missing)
