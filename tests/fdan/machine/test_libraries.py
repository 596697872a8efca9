"""Libraries that are not installed, or are and cannot be loaded: lines that tell the two apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fdan.corpora.demo import generate
from fdan.errors import DataError
from fdan.machine.libraries import load_library, why_not_loaded
from fdan.media.faces import FaceSettings
from fdan.media.pixels import Pixels
from fdan.media.pool import DecoderPool
from fdan.media.spectrogram import SpectrogramSettings
from tests.fdan.machine.test_child_process import sound

LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"
SLIM = f"raise ImportError({LIBGL!r})\n"
BARE = "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')\n"


@pytest.fixture(params=[SLIM, BARE], ids=["slim", "bare"])
def opencv(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Our processes find an OpenCV that cannot be loaded, or none; returns what a line says."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "cv2.py").write_text(request.param)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    if request.param == SLIM:
        return (
            f"needs cv2, which is installed but cannot be loaded (ImportError: {LIBGL}): install"
            " the system packages libgl1 and libglib2.0-0, or opencv-python-headless in place of"
            " opencv-python"
        )
    return "needs cv2, which is not installed: pip install 'opencv-python-headless<5'"


def test_speech_needs_no_opencv_and_faces_say_what_they_need(opencv: str, tmp_path: Path) -> None:
    with DecoderPool(SpectrogramSettings(spectrogram_size=32), 1, 60.0) as speech:
        (answer,) = speech.read([sound(tmp_path / "a.wav")])
    assert isinstance(answer, Pixels), answer
    cv2.imwrite(str(tmp_path / "face.png"), np.zeros((48, 48, 3), np.uint8))
    with DecoderPool(FaceSettings(), 1, 60.0) as faces, pytest.raises(DataError) as caught:
        next(faces.read([tmp_path / "face.png"]))
    assert str(caught.value) == f"decoding faces {opencv}"
    with pytest.raises(DataError) as caught:
        generate(tmp_path / "demo", speakers=1, takes=1, uneven=False, workers=1)
    assert opencv in str(caught.value)
    assert not (tmp_path / "demo").exists()


def test_a_library_whose_own_library_is_missing_is_installed() -> None:
    error = ModuleNotFoundError("No module named 'numba'", name="numba")
    assert "installed but cannot be loaded (ModuleNotFoundError" in why_not_loaded("librosa", error)
    error = ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")
    assert why_not_loaded("psycopg2", error).endswith("pip install 'fdan-search[postgres]'")
    assert "libsndfile" in why_not_loaded("soundfile", OSError("cannot load libsndfile.so"))


def test_one_that_loads_is_there() -> None:
    assert load_library("json").loads("[1]") == [1]
    with pytest.raises(DataError, match=r"needs no_such_one, which is not installed"):
        load_library("no_such_one")
