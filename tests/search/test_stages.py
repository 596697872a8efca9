"""The end of a study, whatever its promotion meets: a verdict, and so the study's summary."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search import stages
from search.results.study_result import StudyEnd
from search.study.stopping import StopSignal
from tracking.tags import COMPLETE


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (ValueError("what nobody\nforesaw"), "what nobody foresaw", 0),
        (ZeroDivisionError(), "ZeroDivisionError", 0),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", 0),
        (KeyboardInterrupt(), "stopped by Ctrl-C", 130),
    ],
)
def test_a_promotion_that_raises_is_a_verdict(
    error: BaseException,
    said: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def promote(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stages, "promote", promote)
    spec = SimpleNamespace(
        tracking_uri="sqlite:///x.db", confirm=SimpleNamespace(accept_yardstick_tie=False)
    )
    stop = StopSignal(None)
    context = SimpleNamespace(
        data=SimpleNamespace(spec=spec, folder=tmp_path / "a study"),
        rounds=SimpleNamespace(stop=stop),
        isolated_model=None,
        notify=print,
    )
    end = StudyEnd(COMPLETE, "3 of 3 trials", "")
    verdict = stages._promote(cast(Any, context), cast(Any, object()), end)
    assert verdict is not None and not verdict.promoted
    command = f"python -m tracking promote '{tmp_path}/a study'"
    assert verdict.reason == f"{said}; the model is kept, for: {command}"
    assert stop.code == code
    fault_of_ours = isinstance(error, ValueError | ZeroDivisionError)
    assert ("Traceback" in capsys.readouterr().err) is fault_of_ours
