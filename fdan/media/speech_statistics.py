"""MFCC statistics of an utterance, by librosa: what a support vector machine is given as a
yardstick (fdan/evaluation/yardsticks.py)."""

import importlib
import warnings
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.media.spectrogram import import_librosa, mel_filters

VERSION: Final = 1
"""Raised by one whenever the same speech gives other statistics."""

COEFFICIENTS: Final = 39
COLUMNS: Final = 4 * COEFFICIENTS
DESCRIPTION: Final = {"mfcc": COEFFICIENTS, "columns": COLUMNS, "version": VERSION}
"""What a store's manifest says of them."""

# librosa's defaults, so that anyone can compute the same.
_N_FFT: Final = 2048
_HOP: Final = 512
_BANDS: Final = 128

_LONGEST_S: Final = 60.0  # an hour's spectrogram takes a gigabyte, and no utterance lasts a minute


def speech_statistics(speech: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Statistics over the frames of a whole utterance, (COLUMNS,) float32: the means of the
    coefficients and of their deltas, then the standard deviations of both.

    It is librosa.feature.mfcc(y=speech, sr=sample_rate, n_mfcc=39) and its librosa.feature.delta,
    each with librosa's defaults; at either end of the utterance a delta repeats the last frame, so
    that a few frames are enough. Of more than a minute, the middle one counts.

    Args:
        speech: (samples,) float32.
        sample_rate: Its sample rate, in Hz.
    """
    librosa = import_librosa()
    feature = importlib.import_module("librosa.feature")
    excess = max(0, len(speech) - round(_LONGEST_S * sample_rate))
    speech = speech[excess // 2 : len(speech) - (excess - excess // 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of speech that is shorter than a frame
        spectrum = librosa.stft(speech, n_fft=_N_FFT, hop_length=_HOP)
    mel = mel_filters(sample_rate, _N_FFT, _BANDS) @ np.square(np.abs(spectrum))
    mfcc = feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=COEFFICIENTS)
    frames = np.concatenate([mfcc, feature.delta(mfcc, mode="nearest")]).astype(np.float64)
    statistics = np.concatenate([frames.mean(1), frames.std(1)]).astype(np.float32)
    # The power of a recording in absurd units is infinite, and nothing can be fitted to that.
    return statistics if np.isfinite(statistics).all() else np.zeros(COLUMNS, np.float32)
