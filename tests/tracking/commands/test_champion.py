"""`python -m tracking champion`: whose database it reads."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tracking import by_hand
from tracking.registry.registry import Registry

if TYPE_CHECKING:
    from conftest import Tables

Start = Callable[..., "subprocess.Popen[str]"]


def _champion(python: Start, *arguments: str | Path) -> tuple[int, str, str]:
    process = python("-m", "tracking", "champion", *map(str, arguments))
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_folder_of_studies_is_its_own_database(
    python: Start, database: Tables, finished: Path
) -> None:
    study = next(folder for folder in sorted(finished.iterdir()) if (folder / "winner").is_dir())
    by_hand.champion(Registry(database.uri, "fdan"), study)
    code, out, err = _champion(python, "--runs", database.path.parent)
    assert code == 0, err
    assert "champion: fdan/1" in out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ((), "no mlflow.db is in it"),
        (("--tracking-uri", "http://127.0.0.1:9"), "give one of them"),
    ],
)
def test_a_folder_that_names_none(
    python: Start, tmp_path: Path, more: tuple[str, ...], line: str
) -> None:
    code, out, err = _champion(python, "--runs", tmp_path, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and line in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is made"
