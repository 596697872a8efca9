"""A study remembers how it was started: `--study NAME` alone goes on with it.

What the command line says replaces what is remembered; where the two make another study, it is
refused like any other (search/study.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from search.arguments import parser

ARGUMENTS = "arguments"
"""Key of study.json: the words behind `search/run.py` of the newest start."""

_DATA = frozenset(("task", "acoustic", "visual"))
_ONCE = frozenset(("dry-run", "estimate", "score-again"))


def words(argv: Sequence[str]) -> list[str]:
    """What a command line leaves out and the study that --study names remembers. Ends the process
    like argparse where `argv` is wrong."""
    asked = parser().parse_args(argv)
    if asked.study is None:
        return []
    remembered = _read(asked.runs / asked.study / "study.json")
    said = {name for name, _ in _options(argv)}
    if said & _DATA:
        said |= _DATA
    return [
        word
        for name, option in _options(remembered)
        if name not in said | _ONCE and not any(":***@" in word for word in option)
        for word in option
    ]


def _options(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Words as options, each with its values.

    >>> _options(["--lr", "0.1", "--no-augment", "--study=a"])
    [('lr', ['--lr', '0.1']), ('augment', ['--no-augment']), ('study', ['--study=a'])]
    """
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").removeprefix("no-")
            found.append((name, [word]))
        elif found:
            found[-1][1].append(word)
    return found


def _read(file: Path) -> list[str]:
    """Nothing where there is no such study; one that cannot be read is refused later, with a
    reason. A password is masked there, so what had one has to be given again."""
    try:
        remembered = json.loads(file.read_text(encoding="utf-8"))[ARGUMENTS]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(word) for word in remembered]
