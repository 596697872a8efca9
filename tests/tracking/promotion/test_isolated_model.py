"""The process that answers with a registered model: nothing of it is left behind, and what keeps it
from answering is said in words."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from fdan.errors import FdanError
from tracking.promotion.isolated_model import Witness

IMAGES = np.zeros((1, 32, 32, 1), np.uint8)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it puts its files: a folder of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def there(number: int) -> bool:
    return Path(f"/proc/{number}").exists()


def test_one_that_nobody_asks_leaves_nothing(temporary: Path) -> None:
    with Witness() as witness:
        witness.start()
        witness.start()  # once is enough
        assert witness._process is not None
        number = witness._process.pid
        assert there(number) and len(list(temporary.iterdir())) == 1
    assert not there(number) and list(temporary.iterdir()) == []


def test_ctrl_c_is_not_for_it(tmp_path: Path) -> None:
    """It is in no terminal's group; who asks decides what becomes of it."""
    with Witness() as witness:
        witness.start()
        assert witness._process is not None
        assert os.getpgid(witness._process.pid) != os.getpgid(0)


def test_one_that_somebody_ends_says_so(tmp_path: Path) -> None:
    with Witness() as witness:
        witness.start()
        assert witness._process is not None
        os.kill(witness._process.pid, signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(FdanError, match=r"was ended \(signal 15\)"):
            witness.answers(tmp_path, IMAGES)


def test_what_is_no_model_is_said_in_its_words(tmp_path: Path) -> None:
    with Witness() as witness, pytest.raises(FdanError, match=r"does not load: .*MLmodel"):
        witness.answers(tmp_path, IMAGES)


def test_one_that_cannot_start_says_so_when_it_is_asked(tmp_path: Path, temporary: Path) -> None:
    temporary.rmdir()
    with Witness() as witness:
        witness.start()
        with pytest.raises(FileNotFoundError):
            witness.answers(tmp_path, IMAGES)
        temporary.mkdir()
        witness.start()
        assert witness._process is not None, "there is room by now"
    assert list(temporary.iterdir()) == []
