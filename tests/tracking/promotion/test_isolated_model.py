"""The process that answers with a registered model: nothing of it is left behind, and what keeps it
from answering is said in words."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fdan.errors import FdanError
from tracking.promotion.isolated_model import IsolatedModel

IMAGES = np.zeros((1, 32, 32, 1), np.uint8)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it puts its files: a folder of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def is_alive(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


def test_one_that_nobody_asks_leaves_nothing(temporary: Path) -> None:
    with IsolatedModel() as model:
        model.start()
        model.start()  # once is enough
        assert model._process is not None
        number = model._process.pid
        assert is_alive(number) and len(list(temporary.iterdir())) == 1
    assert not is_alive(number) and list(temporary.iterdir()) == []


def test_ctrl_c_is_not_for_it(tmp_path: Path) -> None:
    """It is in no terminal's group; who asks decides what becomes of it."""
    with IsolatedModel() as model:
        model.start()
        assert model._process is not None
        assert os.getpgid(model._process.pid) != os.getpgid(0)


def test_one_that_somebody_ends_says_so(tmp_path: Path) -> None:
    with IsolatedModel() as model:
        model.start()
        assert model._process is not None
        os.kill(model._process.pid, signal.SIGTERM)
        os.waitid(os.P_PID, model._process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(FdanError, match=r"was ended \(signal 15\)"):
            model.probabilities(tmp_path, IMAGES)


def test_what_is_no_model_is_said_in_its_words(tmp_path: Path) -> None:
    with IsolatedModel() as model, pytest.raises(FdanError, match=r"does not load: .*MLmodel"):
        model.probabilities(tmp_path, IMAGES)


def test_one_that_cannot_start_says_so_when_it_is_asked(tmp_path: Path, temporary: Path) -> None:
    temporary.rmdir()
    with IsolatedModel() as model:
        model.start()
        with pytest.raises(FileNotFoundError):
            model.probabilities(tmp_path, IMAGES)
        temporary.mkdir()
        model.start()
        assert model._process is not None, "there is room by now"
    assert list(temporary.iterdir()) == []
