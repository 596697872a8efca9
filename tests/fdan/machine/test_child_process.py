"""Our own processes, beside files that stand in the way of what they import."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from fdan.corpora.demo import generate
from fdan.errors import DataError
from fdan.machine.child_process import ErrorFile
from fdan.media.pixels import Pixels
from fdan.media.pool import DecoderPool
from fdan.media.spectrogram import SpectrogramSettings
from search.callbacks.trial_figures import FigureJob, TrialFigures

EPOCHS = [(1, {"train/loss": 1.0, "value": 0.2}), (2, {"train/loss": 0.5, "value": 0.3})]
SETTINGS = SpectrogramSettings(spectrogram_size=32)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with another clone of this project and a student's files, and a notebook's
    environment, whose search path has an empty part."""
    folder = tmp_path / "clone"
    for package in ("fdan", "search", "tracking"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise SystemExit('the other clone')\n")
    for name in ("struct", "matplotlib", "numpy", "random", "cv2"):
        (folder / f"{name}.py").write_text("raise SystemExit('a student's file')\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "module://backend_of_a_notebook")
    monkeypatch.setenv("PYTHONPATH", ":.")
    return folder


def sound(file: Path) -> Path:
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16000, 0, "NONE", ""))
        tone = 9000 * np.sin(np.arange(16000) / 16000 * 440 * 2 * np.pi)
        out.writeframes(tone.astype("<i2").tobytes())
    return file


@pytest.mark.usefixtures("hostile")
def test_media_are_decoded_figures_drawn_and_a_corpus_written(tmp_path: Path) -> None:
    with DecoderPool(SETTINGS, 1, 60.0) as decoders:
        (answer,) = decoders.read([sound(tmp_path / "a.wav")])
    assert isinstance(answer, Pixels), answer
    with TrialFigures() as figures:
        job = FigureJob(tmp_path / "0", 0, "epoch 2: value 0.300", EPOCHS, ())
        drawn = figures.submit(job, {}).result(300)
    assert not figures.undrawn
    assert [file.name for file in drawn] == ["config.json", "learning_curve.png"]
    generate(tmp_path / "demo", speakers=1, takes=1, uneven=False, workers=1)


def test_why_a_process_cannot_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('no such luck')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with DecoderPool(SETTINGS, 1, 60.0) as decoders, pytest.raises(DataError) as caught:
        next(decoders.read([sound(tmp_path / "a.wav")]))
    assert "cannot start a process to decode media" in str(caught.value)
    assert "no such luck" in str(caught.value)
    with TrialFigures() as figures:
        job = FigureJob(tmp_path / "0", 0, "epoch 2: value 0.300", EPOCHS, ())
        assert [file.name for file in figures.submit(job, {}).result(60)] == ["config.json"]
    assert figures.undrawn == [
        "the process that draws ended with exit code 1: SystemExit: no such luck"
    ]


def test_stderr_is_kept_as_far_as_it_is_told() -> None:
    errors = ErrorFile()
    assert errors.last_line() == ""
    with open(errors.fileno(), "ab", closefd=False) as child:
        child.write(b"x" * 5000 + b"\nfirst\n last  words \n\n")
        child.flush()
        assert errors.last_line() == "last words"
        errors.clear()
        assert errors.last_line() == ""
        child.write(b"again\n")
    assert errors.last_line() == "again"
    errors.close()
