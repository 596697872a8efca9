"""MFCC statistics against librosa's plain calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fdan.media.pixels import read_pixels
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.speech_statistics import COLUMNS, speech_statistics

RATE = 16000


def chirp(seconds: float, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + noise).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.01, 0.2, 3.7])
def test_they_are_librosas(seconds: float) -> None:
    """However short the utterance."""
    import librosa

    speech = chirp(seconds)
    mfcc = librosa.feature.mfcc(y=speech, sr=RATE, n_mfcc=39)
    delta = librosa.feature.delta(mfcc, mode="nearest")
    expected = [mfcc.mean(1), delta.mean(1), mfcc.std(1), delta.std(1)]
    found = speech_statistics(speech, RATE)
    assert found.shape == (COLUMNS,) == (156,) and found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-3)


def test_silence_at_the_ends_is_finite() -> None:
    speech = np.pad(chirp(0.5), RATE)
    assert np.isfinite(speech_statistics(speech, RATE)).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_recording_in_absurd_units_is_finite() -> None:
    assert not speech_statistics(chirp(0.5) * np.float32(1e30), RATE).any()


def test_the_middle_minute_of_a_long_recording_counts() -> None:
    """An hour's spectrogram would not fit into the memory that a file may take."""
    minute = chirp(60)
    long = np.concatenate([chirp(20, 1), minute, chirp(20, 2)])
    np.testing.assert_array_equal(speech_statistics(long, RATE), speech_statistics(minute, RATE))


def test_they_are_of_the_whole_utterance_and_made_where_asked_for(tmp_path: Path) -> None:
    file, speech = tmp_path / "a.wav", chirp(5)
    soundfile.write(file, speech, RATE, subtype="FLOAT")
    settings = SpectrogramSettings()
    assert read_pixels(file, settings).statistics is None
    pixels = read_pixels(file, settings, statistics=True)
    assert pixels.statistics is not None
    np.testing.assert_array_equal(pixels.statistics, speech_statistics(speech, RATE)[None])
    np.testing.assert_array_equal(pixels.images, read_pixels(file, settings).images)
