"""Speech from a sound file or from the sound track of a video."""

import contextlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import VIDEO
from fdan.errors import DataError
from fdan.media.container import open_container

_SILENCE: Final = 1.0 / 32768.0  # one step of 16-bit audio: what never leaves it holds no sound

_MAX_SAMPLES: Final = 2**28
"""Samples that a header may declare before it is doubted: hours of sound. A FLAC file that comes
out of a pipe, for one, does not say how long it is."""

_RATES: Final = range(1000, 768_001)
"""In Hz. A file that declares another rate is damaged, and resampling it could fill any memory."""


def read_speech(path: Path, sample_rate: int) -> NDArray[np.float32]:
    """The sound of a file, mono: (samples,) float32; of a truncated file, whatever decodes.

    Channels are averaged; resampling is soxr's HQ, which is librosa's default. DataError: nothing
    can be decoded, or values are not finite.

    Args:
        path: A sound file or a video.
        sample_rate: Sample rate of the result, in Hz.
    """
    read = _read_container if path.suffix.lower() in VIDEO else _read_sound_file
    speech, rate = read(path)
    if not len(speech):
        raise DataError("holds no sound (0 samples)")
    if not np.isfinite(speech).all():
        raise DataError("holds samples that are not finite")
    if rate != sample_rate:
        import soxr  # type: ignore[import-untyped, unused-ignore]

        speech = soxr.resample(speech, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(speech, dtype=np.float32)


def window(speech: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """The middle of a recording, or all of it with silence on both sides. DataError: there is no
    sound in it.

    Args:
        speech: (samples,) float32.
        length: Number of samples of the result.
    """
    excess = len(speech) - length
    if excess >= 0:
        cut = speech[excess // 2 : excess // 2 + length]
    else:
        cut = np.zeros(length, np.float32)
        cut[-excess // 2 : -excess // 2 + len(speech)] = speech
    if float(cut.max()) - float(cut.min()) <= 2 * _SILENCE:
        raise DataError("is silent: there is no sound in the part that is used")
    return cut


def _check_rate(rate: int) -> None:
    if rate not in _RATES:
        raise DataError(f"declares a sample rate of {rate} Hz: its header is damaged")


def _read_sound_file(path: Path) -> tuple[NDArray[np.float32], int]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            _check_rate(rate)
            if file.frames * file.channels > _MAX_SAMPLES:
                return _read_container(path)
            speech = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        # m4a, a coding that libsndfile does not know, or a FLAC file that breaks off: FFmpeg
        # gives what comes before.
        return _read_container(path)
    return speech.mean(axis=1) if speech.shape[1] > 1 else speech[:, 0], rate


def _read_container(path: Path) -> tuple[NDArray[np.float32], int]:
    with open_container(path) as container:
        if not container.streams.audio:
            raise DataError("has no sound track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise DataError("has sound in a coding that is not known here")
        rate = int(stream.codec_context.sample_rate)
        _check_rate(rate)
        return _decode(container, stream, rate), rate


def _decode(container: Any, stream: Any, rate: int) -> NDArray[np.float32]:
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    forms = set()
    blocks: list[NDArray[np.float32]] = []
    with contextlib.suppress(av.FFmpegError):  # a file that breaks off while it is read
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:  # one damaged packet of many
                continue
            for frame in frames:
                forms.add((frame.format.name, frame.layout.name, frame.sample_rate))
                if len(forms) > 1:
                    raise DataError("changes its channels or its sample rate on the way")
                blocks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    blocks += [part.to_ndarray()[0] for part in resampler.resample(None)] if blocks else []
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
