"""How a study was started, as its folder records it, so that `--study NAME` alone continues it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fdan.files import PROJECT_ROOT, write_atomic
from search.study.folder import STUDY_FILE, write_study_file

ARGUMENTS: Final = "arguments"
"""Key of study.json: the words behind `search/run.py` of the newest start, without passwords."""

BEGUN: Final = "begun.json"
"""In a study's folder while its data are prepared and study.json does not exist yet: the same
key."""


def write_begun(folder: Path, arguments: Sequence[str]) -> None:
    """Record how a study is started, before its data are prepared.

    Args:
        folder: the study's.
        arguments: words behind `search/run.py`, without passwords.
    """
    if (folder / STUDY_FILE).exists():
        return
    write_atomic(folder / BEGUN, json.dumps({ARGUMENTS: list(arguments)}) + "\n")


def record_start(
    folder: Path, trials: int, arguments: Sequence[str], spec: Mapping[str, Any] | None = None
) -> None:
    """Record how the study was started last.

    Args:
        folder: The study's.
        trials: Trials in all.
        arguments: The command line, without passwords.
        spec: The same options by section, as a TOML file has them.
    """
    facts = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
    recorded = {**facts, "trials": trials, ARGUMENTS: list(arguments), "spec": spec}
    write_study_file(folder, recorded)
    (folder / BEGUN).unlink(missing_ok=True)


def read_arguments(folder: Path) -> list[str] | None:
    """How the study in `folder` was started, passwords masked; None where there is no study. Empty
    for one that cannot be read: it is refused later, with a reason."""
    files = [file for name in (STUDY_FILE, BEGUN) if (file := folder / name).exists()]
    for file in files:
        try:
            arguments = json.loads(file.read_text(encoding="utf-8"))[ARGUMENTS]
            return [str(word) for word in arguments]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [] if files else None


def command_line(arguments: Sequence[str]) -> str:
    """A search's command line, as it can be typed in the current folder."""
    program = Path("search/run.py")
    if not program.is_file():
        program = PROJECT_ROOT / program
    return shlex.join(["python", str(program), *arguments])
