"""A home is found for whoever has none, and is nobody else's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from fdan.machine.home import ensure_home


def test_a_home_that_can_be_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ensure_home() == "" and os.environ["HOME"] == str(tmp_path)


@pytest.mark.parametrize("taken", [False, True])
def test_one_that_is_gone_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """A folder of that name which others may write, or a link, is not used."""
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = tmp_path / f"fdan-home-{os.geteuid()}"
    if taken:
        (tmp_path / "elsewhere").mkdir()
        expected.symlink_to(tmp_path / "elsewhere")
    line = ensure_home()
    home = Path(os.environ["HOME"])
    assert line.startswith(f"/nonexistent cannot be written: caches go to {home};")
    assert home.stat().st_mode & 0o777 == 0o700 and not home.is_symlink()
    assert (home == expected) == (not taken)
    assert ensure_home() == ""
