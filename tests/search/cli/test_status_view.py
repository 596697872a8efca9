"""`python -m search status`, as a terminal shows it."""

from __future__ import annotations

import pytest

from search.cli.status_view import show_nested_status, show_status
from search.nested.status import NestedStatus
from search.study.status import StudyStatus

FOLDER = f"/data/{'deep/' * 30}runs/s"
URI = f"sqlite:///{FOLDER}/mlflow.db"


@pytest.mark.parametrize("unsent", [0, 3])
@pytest.mark.parametrize("kind", ["study", "nested study"])
def test_a_long_place_can_be_copied_from_a_terminal(
    kind: str, unsent: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece: only the terminal itself breaks its line."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    words = ("s", FOLDER, "stopped", "", "python search/run.py --study s")
    if kind == "study":
        show_status(StudyStatus(*words, recorded=9, unsent=unsent, tracking_uri=URI))
    else:
        show_nested_status(NestedStatus(*words, 4, 0, (), None, None, None, 9, unsent, URI))
    shown = capsys.readouterr().out
    assert "\x1b[" in shown, "as a terminal has it"
    lines = shown.splitlines()
    assert FOLDER in lines[0] and any(URI in line for line in lines)
