"""A search's command line, for the runs folder as it is now."""

import shlex
from collections.abc import Sequence
from pathlib import Path


def with_runs(words: Sequence[str], runs: Path) -> list[str]:
    """A search's command line for the runs folder as it is now.

    Args:
        words: A command line, possibly with the place that the folder had.
        runs: The folder of studies; `./runs` needs no option.
    """
    kept = list(words)
    while "--runs" in kept:
        place = kept.index("--runs")
        del kept[place : place + 2]
    return kept if runs == Path.cwd() / "runs" else [*kept, "--runs", str(runs)]


def command_now(command: str, runs: Path) -> str:
    """A recorded command for the runs folder as it is now.

    Args:
        command: The command, as a search recorded it.
        runs: The folder of studies.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # not written by a search
        return command
    now = with_runs(words, runs)
    return command if now == words else shlex.join(now)
