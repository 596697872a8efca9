"""The commands by their installed names, and what all of them share."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest

from tests.commands.conftest import ROOT, Run

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
SAME = {
    "fdan": ("-m", "fdan"),
    "fdan-search": ("search/run.py",),
    "fdan-study": ("-m", "search"),
    "fdan-tracking": ("-m", "tracking"),
}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_each_name_is_the_command_and_knows_its_version(name: str, run: Run) -> None:
    """What an installed script does, without its file: it may be older than pyproject.toml."""
    module, _, function = SCRIPTS[name].partition(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    by_name, by_path = run("-c", code, "--version"), run(*SAME[name], "--version")
    for done in (by_name, by_path):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"fdan-search {version('fdan-search')}\n"
    assert set(SCRIPTS) == set(SAME)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "fdan", "predict", "nowhere", "clip.wav"),
        ("-m", "fdan", "prepare", "--task", "savee:/nowhere"),
        ("-m", "fdan", "--versoin"),
        ("search/run.py", "--acoustic", "savee:/nowhere", "--dry-run"),
        ("-m", "search", "status", "nowhere"),
        ("-m", "search", "rerun", "0" * 32),
        ("-m", "tracking", "champion"),
        ("-m", "tracking", "promote", "nowhere"),
        ("-m", "tracking", "flush", "nowhere"),
    ],
)
def test_an_error_is_one_line_with_one_prefix(arguments: tuple[str, ...], run: Run) -> None:
    done = run(*arguments, MLFLOW_TRACKING_URI="")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and re.match("error: [^ ]", line), line
