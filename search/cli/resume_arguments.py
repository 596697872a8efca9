"""A study remembers how it was started: `--study NAME` alone goes on with it.

What the command line says replaces what is remembered; where the two make another study, it is
refused like any other (search/study/open.py).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from fdan.errors import FdanError
from fdan.files import PROJECT_ROOT
from search.cli.parser import parser
from tracking.uri import TRACKING_URI_VARIABLE, is_masked

ARGUMENTS = "arguments"
"""Key of study.json: the words behind `search/run.py` of the newest start."""

BEGUN = "begun.json"
"""In a study's folder while its data are prepared and study.json is not there yet: the same key."""

_DATA = frozenset(("task", "acoustic", "visual"))
_ONCE = frozenset(("dry-run", "estimate", "score-again"))


def words(argv: Sequence[str]) -> list[str]:
    """What a command line leaves out and the study that --study names remembers. Raises FdanError
    for what cannot be remembered; ends the process like argparse where `argv` is wrong."""
    asked = parser().parse_args(argv)
    if asked.study is None:
        return []
    said = {name for name, _ in _options(argv)} | _ONCE
    if said & _DATA:
        said |= _DATA
    if "gpus-per-trial" in said:
        said.add("device")
    found = []
    for name, option in _options(read(asked.runs.expanduser() / asked.study) or []):
        if name in said:
            continue
        if any(map(is_masked, option)):
            if name == "tracking-uri" and os.environ.get(TRACKING_URI_VARIABLE):
                continue  # which is where it came from, or is said again there
            raise FdanError(
                f"study '{asked.study}': its --{name} had a password, which is not kept: give it"
                " again"
            )
        found += option
    return found


def unknown(asked: argparse.Namespace) -> str:
    """A line for a study that is not there yet and was given a name alone, which may be misspelt;
    nothing for any other."""
    if asked.study is None or asked.task or asked.acoustic or asked.visual:
        return ""
    if read(asked.runs / asked.study) is not None:
        return ""
    return (
        f"there is no study '{asked.study}' in {asked.runs}: this begins a new one, on the demo"
        " corpus"
    )


def begin(folder: Path, words: Sequence[str]) -> None:
    """Write down how a study is started, before its data are prepared. words: without passwords."""
    if (folder / "study.json").exists():
        return
    partial = folder / f".{BEGUN}"
    partial.write_text(json.dumps({ARGUMENTS: list(words)}) + "\n", encoding="utf-8")
    partial.replace(folder / BEGUN)


def read(folder: Path) -> list[str] | None:
    """How the study in `folder` was started, passwords masked; None where there is none. Nothing
    of one that cannot be read: it is refused later, with a reason."""
    there = [file for name in ("study.json", BEGUN) if (file := folder / name).exists()]
    for file in there:
        try:
            remembered = json.loads(file.read_text(encoding="utf-8"))[ARGUMENTS]
            return [str(word) for word in remembered]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [] if there else None


def command(words: Sequence[str]) -> str:
    """A search's command line, as it can be typed in the current folder."""
    program = Path("search/run.py")
    if not program.is_file():
        program = PROJECT_ROOT / program
    return shlex.join(["python", str(program), *words])


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
