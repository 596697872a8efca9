"""Log-mel spectrogram images of speech, as librosa defines them.

Written out here because importing librosa.feature costs each worker several seconds (numba) and
its spectrogram several times ours; a test holds the two together.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.config import Config, option
from fdan.errors import ConfigError

# Decibels below the loudest cell that are kept, and the power that counts as nothing: the
# defaults of librosa.power_to_db.
TOP_DB: Final = 80.0
A_MIN: Final = 1e-10
# Mel bands that are summed up together.
_BLOCK: Final = 16
# Windows that are transformed together: few enough to stay in a core's cache meanwhile.
_ROWS: Final = 32


@dataclass(frozen=True)
class SpectrogramSettings(Config):
    """What the pixels of a speech image depend on.

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
        if not mel_filters(self.sample_rate, self.n_fft, self.mels).any(axis=1).all():
            raise ConfigError(
                f"mels = {self.mels}: too many for n_fft = {self.n_fft} at {self.sample_rate} Hz,"
                " some bands hold no frequency; use fewer or a longer window"
            )

    @property
    def length(self) -> int:
        """Samples of speech that one image shows."""
        return round(self.seconds * self.sample_rate)


def log_mel(speech: NDArray[np.float32], settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Mel power spectrogram in dB below its own maximum.

    The same as librosa.power_to_db(librosa.feature.melspectrogram(...), ref=np.max): centred
    Hann windows, silence beyond the ends, Slaney's mel scale and area normalisation.

    Args:
        speech: (samples,) float32.

    Returns:
        (mels, 1 + samples // hop) float32 in [-80, 0], the lowest band first.
    """
    n_fft, hop = settings.n_fft, settings.hop
    # In double precision, since in single it strays from librosa's three times as far.
    padded = np.zeros(len(speech) + 2 * (n_fft // 2))
    padded[n_fft // 2 : n_fft // 2 + len(speech)] = speech
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    power = _power(frames, _hann(n_fft))
    mel = np.empty((settings.mels, len(power)), np.float32)
    for bands, bins, filters in _mel_blocks(settings.sample_rate, n_fft, settings.mels):
        np.matmul(filters, power[:, bins].T, out=mel[bands])
    decibels = 10.0 * np.log10(np.maximum(mel, A_MIN))
    decibels -= 10.0 * np.log10(max(float(mel.max()), A_MIN))
    kept: NDArray[np.float32] = np.maximum(decibels, decibels.max() - TOP_DB).astype(np.float32)
    return kept


def _power(frames: NDArray[np.float64], window: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, n_fft) -> (n, 1 + n_fft // 2): squared magnitudes of the Fourier transform of each row,
    windowed."""
    # A fraction of numpy's time for it and, unlike scipy's, no tenth of a second to import.
    import cv2

    rows, n_fft = frames.shape
    power = np.empty((rows, 1 + n_fft // 2), np.float32)
    windowed, transformed = np.empty((_ROWS, n_fft)), np.empty((_ROWS, n_fft))
    for first in range(0, rows, _ROWS):
        block = frames[first : first + _ROWS]
        some = np.multiply(block, window, out=windowed[: len(block)])
        # In one row: Re 0, Re 1, Im 1, Re 2, Im 2 and so on; of an even number the last is real.
        of_rows = cv2.dft(some, dst=transformed[: len(block)], flags=cv2.DFT_ROWS)
        squares = cv2.mulSpectrums(of_rows, of_rows, cv2.DFT_ROWS, conjB=True)
        power[first : first + _ROWS, 0] = squares[:, 0]
        power[first : first + _ROWS, 1:] = squares[:, 1::2]
    return power


def spectrogram_image(
    speech: NDArray[np.float32], settings: SpectrogramSettings
) -> NDArray[np.uint8]:
    """Speech image: -80 dB is 0, the maximum 255; row 0 is the lowest band, columns are time.

    Args:
        speech: (settings.length,) float32, see `fdan.media.audio.window`.

    Returns:
        (spectrogram_size, spectrogram_size, 1) uint8.
    """
    import cv2

    grey = (log_mel(speech, settings) + TOP_DB) * (255.0 / TOP_DB)
    size = settings.spectrogram_size
    shrinks = size < min(grey.shape)
    resized = cv2.resize(
        grey, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    image: NDArray[np.uint8] = np.rint(np.clip(resized, 0, 255)).astype(np.uint8)
    return image[:, :, None]


@functools.lru_cache(maxsize=8)
def mel_filters(sample_rate: int, n_fft: int, mels: int) -> NDArray[np.float32]:
    """Triangular filters on Slaney's mel scale (Auditory Toolbox 1998), each of unit area.

    Returns:
        (mels, 1 + n_fft // 2) float32; over 0 Hz to half the sample rate.
    """
    bins = np.arange(1 + n_fft // 2) * (sample_rate / n_fft)
    edges = _hertz(np.linspace(0.0, _mel(sample_rate / 2), mels + 2))
    width = np.diff(edges)
    rising = (bins[None, :] - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - bins[None, :]) / width[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters = (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    filters.flags.writeable = False
    return filters


@functools.lru_cache(maxsize=8)
def _mel_blocks(
    sample_rate: int, n_fft: int, mels: int
) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """mel_filters in blocks of neighbouring bands: the bands, the frequencies that they take in,
    and the filters over those. Of all filters' weights, seven in eight are zeros outside these."""
    filters, blocks = mel_filters(sample_rate, n_fft, mels), []
    for first in range(0, mels, _BLOCK):
        block = filters[first : first + _BLOCK]
        heard = np.flatnonzero(block.any(axis=0))
        bins = slice(int(heard[0]), int(heard[-1]) + 1)
        blocks.append((slice(first, first + len(block)), bins, block[:, bins].copy()))
    return blocks


# Slaney's scale is linear up to 1 kHz (15 mels) and logarithmic above (27 mels a factor of 6.4).
_KNEE_HZ: Final = 1000.0
_KNEE_MEL: Final = 15.0
_LOG_STEP: Final = float(np.log(6.4)) / 27.0


def _mel(hertz: float) -> float:
    if hertz < _KNEE_HZ:
        return hertz * _KNEE_MEL / _KNEE_HZ
    return _KNEE_MEL + float(np.log(hertz / _KNEE_HZ)) / _LOG_STEP


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (np.maximum(mel, _KNEE_MEL) - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)


@functools.lru_cache(maxsize=8)
def _hann(n_fft: int) -> NDArray[np.float64]:
    # Periodic, as scipy.signal.get_window and therefore librosa make it.
    window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return window
