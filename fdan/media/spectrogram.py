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
from fdan.machine.home import ensure_home

TOP_DB: Final = 80.0  # shown below the loudest cell: the default of librosa.power_to_db

FIXED_DB: Final = 20.0
"""Mel power, of samples in -1 .. 1, that `reference` fixed shows as white. In RAVDESS a hundredth
of all cells is above -2 dB, and the loudest one has 31 dB."""


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
    reference: str = option(
        "clip",
        "what is white: clip: each clip's own loudest cell; fixed: one level in all clips, so that"
        " loud speech differs from soft (recordings of equal gain)",
        choices=("clip", "fixed"),
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
    """Mel power spectrogram in dB below its own maximum, or below FIXED_DB: (mels, 1 + samples //
    hop) float32 in [-80, 0], the lowest band first.

    It is librosa.power_to_db(librosa.feature.melspectrogram(...), ref=np.max) in double precision
    up to the power, which gives each pixel the value that it has in stores made before librosa
    computed it.

    Args:
        speech: (samples,) float32.
        settings: Window, step, bands and reference.
    """
    librosa = import_librosa()
    spectrum = librosa.stft(
        speech.astype(np.float64), n_fft=settings.n_fft, hop_length=settings.hop
    )
    power = np.square(np.abs(spectrum)).astype(np.float32)
    mel = mel_filters(settings.sample_rate, settings.n_fft, settings.mels) @ power
    decibels: NDArray[np.float32]
    if settings.reference == "fixed":
        decibels = librosa.power_to_db(mel, ref=10 ** (FIXED_DB / 10), top_db=None)
        return np.clip(decibels, -TOP_DB, 0)
    decibels = librosa.power_to_db(mel, ref=float(mel.max()), top_db=TOP_DB)
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
    resized = np.clip(_resize(grey, settings.spectrogram_size), 0, 255)
    return np.rint(resized).astype(np.uint8)[:, :, None]


def _resize(grey: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(height, width) -> (size, size): the mean of what a new pixel covers where it shrinks both
    ways, else linear interpolation.

    To the bit what cv2.resize makes of it (INTER_AREA where the ratios are no whole numbers, and
    INTER_LINEAR), so that stores stay what they are, but without OpenCV, whose system libraries
    slim images lack.
    """
    along_width = _shrink if size < min(grey.shape) else _interpolate
    return along_width(along_width(grey, size).T, size).T


def _shrink(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(height, width) -> (height, size): sums in single precision, from left to right."""
    total = np.zeros((len(image), size), np.float32)
    for pixel, weight in zip(*_covered(image.shape[1], size), strict=True):
        total += image[:, pixel] * weight
    return total


@functools.lru_cache(maxsize=8)
def _covered(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each new pixel, the old ones that it covers from left to right, and which part of it each
    is: two of (old pixels, size). Parts under a thousandth of an old pixel count as none."""
    scale = length / size
    left = np.arange(size) * scale
    right = left + scale
    pixel = np.ceil(left) - 1 + np.arange(math.ceil(scale) + 1)[:, None]
    part = np.minimum(right, pixel + 1) - np.maximum(left, pixel)
    part = np.where(part > 1e-3, part, 0) / np.minimum(scale, length - left)
    return np.clip(pixel, 0, length - 1).astype(np.intp), part.astype(np.float32)


def _interpolate(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """(height, width) -> (height, size): rounded to single precision once a pixel, as a fused
    multiply-add does it."""
    width = image.shape[1]
    middle = np.clip((np.arange(size) + 0.5) * (width / size) - 0.5, 0, width - 1)
    left = middle.astype(np.intp)
    before, after = image[:, left], image[:, np.minimum(left + 1, width - 1)]
    step = (after - before).astype(np.float64) * (middle - left).astype(np.float32)
    return np.asarray(before + step, np.float32)


@functools.cache
def import_librosa() -> ModuleType:
    """Import librosa, which takes seconds. numba compiles parts of it and keeps them in a folder:
    a temporary one where neither librosa's nor the user's can be written to, as in containers."""
    ensure_home()
    try:
        importlib.import_module("librosa.core.spectrum")
    except RuntimeError:
        folder = tempfile.TemporaryDirectory(prefix="fdan-numba-")
        atexit.register(folder.cleanup)
        importlib.import_module("numba").config.CACHE_DIR = folder.name
        importlib.import_module("librosa.core.spectrum")
    return importlib.import_module("librosa")


@functools.lru_cache(maxsize=8)
def mel_filters(sample_rate: int, n_fft: int, mels: int) -> NDArray[np.float32]:
    """(mels, 1 + n_fft // 2): triangular filters on Slaney's mel scale, each of unit area.

    Args:
        sample_rate: Sample rate of the speech, in Hz.
        n_fft: Window of the spectrogram, in samples.
        mels: Number of bands.
    """
    mel = importlib.import_module("librosa.filters").mel
    # In double precision first: in single, librosa rounds each weight twice.
    filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=mels, dtype=np.float64)
    return np.asarray(filters, np.float32)
