"""Log-mel spectrogram images of speech, made by librosa."""

import atexit
import functools
import importlib
import math
import tempfile
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.config import Config, option
from fdan.errors import ConfigError

TOP_DB: Final = 80.0  # shown below the loudest cell: the default of librosa.power_to_db


@dataclass(frozen=True)
class SpectrogramSettings(Config):
    """Settings that the pixels of a speech image depend on.

    16 kHz holds what matters in speech emotion. A 64 ms window resolves the pitch of a low voice
    (15.6 Hz a bin), and 188 steps of 16 ms over 3 s are near the image's width. Utterances of
    SAVEE, MELD and RAVDESS last 3 to 4 s on average; their middle 3 s gave a linear classifier
    on frozen features more than 4 s did (RAVDESS, new speakers: UAR 0.49 against 0.45), smaller
    steps gave nothing.
    """

    sample_rate: int = option(16000, "speech is resampled to this rate", unit="Hz", low=4000)
    seconds: float = option(
        3.0, "middle part of the speech that is used, shorter ones padded", unit="s", low=0.1
    )
    n_fft: int = option(1024, "window of the spectrogram", unit="samples", low=64)
    hop: int = option(256, "step of the spectrogram", unit="samples", low=1)
    mels: int = option(128, "mel bands", low=8)
    spectrogram_size: int = option(
        224, "height and width of the speech image", unit="pixels", low=16
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # The bands are the narrower the lower they lie, on Slaney's mel scale: the first one ends
        # at 2 of `mels + 1` equal steps from 0 Hz, and holds no frequency if it ends below bin 1.
        # Written out because whoever trains from a prepared store has no librosa.
        whole = 15 + 27 * math.log(self.sample_rate / 2000) / math.log(6.4)
        if 2 * whole / (self.mels + 1) * 200 / 3 <= self.sample_rate / self.n_fft:
            raise ConfigError(
                f"mels = {self.mels}: too many for n_fft = {self.n_fft} at {self.sample_rate} Hz,"
                " some bands hold no frequency; use fewer or a longer window"
            )

    @property
    def length(self) -> int:
        """Samples of speech that one image shows."""
        return round(self.seconds * self.sample_rate)


def log_mel(speech: NDArray[np.float32], settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Mel power spectrogram in dB below its own maximum: (mels, 1 + samples // hop) float32 in
    [-80, 0], the lowest band first.

    It is librosa.power_to_db(librosa.feature.melspectrogram(...), ref=np.max) in double precision
    up to the power, which gives each pixel the value that it has in stores made before librosa
    computed it.

    Args:
        speech: (samples,) float32.
        settings: Window, step and bands.
    """
    librosa = _import_librosa()
    spectrum = librosa.stft(
        speech.astype(np.float64), n_fft=settings.n_fft, hop_length=settings.hop
    )
    power = np.square(np.abs(spectrum)).astype(np.float32)
    mel = _mel_filters(settings.sample_rate, settings.n_fft, settings.mels) @ power
    decibels: NDArray[np.float32] = librosa.power_to_db(mel, ref=float(mel.max()), top_db=TOP_DB)
    return decibels


def spectrogram_image(
    speech: NDArray[np.float32], settings: SpectrogramSettings
) -> NDArray[np.uint8]:
    """Speech image, (spectrogram_size, spectrogram_size, 1) uint8: -80 dB is 0, the maximum 255;
    row 0 is the lowest band, columns are time.

    Args:
        speech: (settings.length,) float32, see `fdan.media.audio.window`.
        settings: Settings that the image depends on.
    """
    grey = (log_mel(speech, settings) + TOP_DB) * (255.0 / TOP_DB)
    image: NDArray[np.uint8] = np.rint(np.clip(_resize(grey, settings.spectrogram_size), 0, 255))
    return image.astype(np.uint8)[:, :, None]


def _resize(grey: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """(height, width) -> (size, size): the mean of what a new pixel covers where it shrinks both
    ways, else linear interpolation.

    As cv2.resize does it (INTER_AREA, INTER_LINEAR), but for one grey level in one of 10^5 pixels,
    so that speech needs no OpenCV, whose system libraries slim images lack.
    """
    weights = _area_weights if size < min(grey.shape) else _linear_weights
    height, width = grey.shape
    resized: NDArray[np.float64] = weights(height, size) @ grey @ weights(width, size).T
    return resized


@functools.lru_cache(maxsize=8)
def _area_weights(length: int, size: int) -> NDArray[np.float64]:
    """(size, length): the part of each new pixel that each old one covers."""
    edges = np.arange(size + 1)[:, None] * (length / size)
    pixel = np.arange(length)
    covered = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.asarray(np.clip(covered, 0, None) * (size / length), np.float64)


@functools.lru_cache(maxsize=8)
def _linear_weights(length: int, size: int) -> NDArray[np.float64]:
    """(size, length): the two old pixels beside each new one's middle, the nearer the heavier."""
    middle = np.clip((np.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    return np.asarray(np.clip(1 - np.abs(middle[:, None] - np.arange(length)), 0, None), np.float64)


@functools.cache
def _import_librosa() -> ModuleType:
    """Import librosa, which takes seconds. numba compiles parts of it and keeps them in a folder:
    a temporary one where neither librosa's nor the user's can be written to, as in containers."""
    try:
        importlib.import_module("librosa.core.spectrum")
    except RuntimeError:
        folder = tempfile.TemporaryDirectory(prefix="fdan-numba-")
        atexit.register(folder.cleanup)
        importlib.import_module("numba").config.CACHE_DIR = folder.name
        importlib.import_module("librosa.core.spectrum")
    return importlib.import_module("librosa")


@functools.lru_cache(maxsize=8)
def _mel_filters(sample_rate: int, n_fft: int, mels: int) -> NDArray[np.float32]:
    """(mels, 1 + n_fft // 2): triangular filters on Slaney's mel scale, each of unit area."""
    mel = importlib.import_module("librosa.filters").mel
    # In double precision first: in single, librosa rounds each weight twice.
    filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=mels, dtype=np.float64)
    return np.asarray(filters, np.float32)
