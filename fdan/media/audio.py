"""Speech from a sound file or from the sound track of a video."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import VIDEO, suffix
from fdan.errors import DataError
from fdan.media.channels import SILENCE, Pieces, loudest_if_cancelling
from fdan.media.container import find_stream, open_container
from fdan.media.declared import goes_on

LOUDEST: Final = "channels cancel out, the loudest taken"

CUT: Final = "more sound than the header declares, which is not read"

_JOINABLE: Final = ("MP3", "OGG", "FLAC")
"""Formats (libsndfile's names) whose files are sound even when one is appended to another."""

_MAX_SAMPLES: Final = 2**28
"""Samples that a header may declare before it is doubted: hours of sound. A FLAC file that comes
out of a pipe, for one, does not say how long it is."""

_RATES: Final = range(1000, 768_001)
"""In Hz. A file that declares another rate is damaged, and resampling it could fill any memory."""


def read_speech(
    path: Path, sample_rate: int, counts: Counter[str] | None = None
) -> NDArray[np.float32]:
    """The sound of a file, mono: (samples,) float32; of a truncated file, whatever decodes.

    Channels are averaged, but where they cancel out, in a part even, the loudest one is taken for
    all. Resampling is soxr's HQ, which is librosa's default. DataError: nothing can be decoded, or
    values are not finite.

    Args:
        path: A sound file or a video.
        sample_rate: Sample rate of the result, in Hz.
        counts: Counter that is told what is worth knowing of how the file was read.
    """
    counts = Counter() if counts is None else counts
    read = _read_container if suffix(path) in (*VIDEO, ".mp3") else _read_sound_file
    speech, rate = read(path, counts)
    counts[CUT] += goes_on(path)
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
    if float(cut.max()) - float(cut.min()) <= 2 * SILENCE:
        raise DataError("is silent: there is no sound in the part that is used")
    return cut


def _check_rate(rate: int) -> None:
    if rate not in _RATES:
        raise DataError(f"declares a sample rate of {rate} Hz: its header is damaged")


def _read_sound_file(path: Path, counts: Counter[str]) -> tuple[NDArray[np.float32], int]:
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            _check_rate(rate)
            # libsndfile stops where a header says; FFmpeg reads to the end.
            honest = file.format not in _JOINABLE and file.frames
            if not honest or file.frames * file.channels > _MAX_SAMPLES:
                return _read_container(path, counts)
            channels = file.read(dtype="float32", always_2d=True).T
    except soundfile.LibsndfileError:
        # m4a, a coding that libsndfile does not know, or a FLAC file that breaks off: FFmpeg
        # gives what comes before.
        return _read_container(path, counts)
    if len(channels) == 1:
        return channels[0], rate
    mixed = channels.mean(axis=0)
    pieces, mixed_pieces = Pieces(rate), Pieces(rate)
    pieces.add(channels)
    mixed_pieces.add(mixed[None])
    loudest = loudest_if_cancelling(pieces, mixed_pieces)
    if loudest is None:
        return mixed, rate
    counts[LOUDEST] += 1
    return channels[loudest], rate


def _read_container(path: Path, counts: Counter[str]) -> tuple[NDArray[np.float32], int]:
    with open_container(path) as container:
        stream = find_stream(container, "audio", counts)
        if stream is None:
            raise DataError("has no sound track")
        if stream.codec_context is None:
            raise DataError("has sound in a coding that is not known here")
        index, rate = stream.index, int(stream.codec_context.sample_rate)
        _check_rate(rate)
        speech, loudest = _decode(container, stream, rate)
    if loudest is None:
        return speech, rate
    counts[LOUDEST] += 1
    with open_container(path) as container:
        stream = container.streams[index]
        return _decode(container, stream, rate, loudest)[0], rate


def _decode(
    container: Any, stream: Any, rate: int, channel: int | None = None
) -> tuple[NDArray[np.float32], int | None]:
    """(samples,): one channel of a track or, without, their mix; and the channel to take instead,
    where they cancel out. What changes on the way is decoded through."""
    mixer = _Mixer(rate, channel)
    blocks = [block for frame in _frames(container, stream) for block in mixer.mix(frame)]
    blocks += mixer.flush()
    loudest = loudest_if_cancelling(mixer.channels, mixer.mixed)
    return np.concatenate(blocks or [np.zeros(0, np.float32)]), loudest


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    import av

    with contextlib.suppress(av.FFmpegError):  # a file that breaks off while it is read
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:  # one damaged packet of many
                continue


class _Mixer:
    """Frames of any form to samples of one rate, by FFmpeg."""

    def __init__(self, rate: int, channel: int | None) -> None:
        self.channels = Pieces(rate)  # where there are several
        self.mixed = Pieces(rate)  # the mix of those
        self._rate, self._channel = rate, channel
        self._form: tuple[str, str, int] | None = None

    def mix(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        """The samples of a frame, and of earlier ones what was held back."""
        import av

        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            _check_rate(frame.sample_rate)
            yield from self.flush()
            self._form, rate = form, self._rate
            self._mono = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            self._stereo, self._apart = frame.layout.nb_channels == 2, None
            if frame.layout.nb_channels > 1:
                self._apart = av.AudioResampler(format="fltp", layout=frame.layout, rate=rate)
        yield from self._resample(frame)

    def flush(self) -> Iterator[NDArray[np.float32]]:
        """What is held back at the end of the frames of one form."""
        if self._form is not None:
            yield from self._resample(None)

    def _resample(self, frame: Any) -> Iterator[NDArray[np.float32]]:
        if self._apart is None:
            yield from (block.to_ndarray()[0] for block in self._mono.resample(frame))
            return
        channels = [block.to_ndarray() for block in self._apart.resample(frame)]
        if self._stereo:
            blocks = [block.mean(axis=0) for block in channels]
        else:  # FFmpeg knows that speech is in the centre
            blocks = [block.to_ndarray()[0] for block in self._mono.resample(frame)]
        for block in channels:
            self.channels.add(block)
        for block in blocks:
            self.mixed.add(block[None])
        if self._channel is None:
            yield from blocks
        else:
            yield from (block[min(self._channel, len(block) - 1)] for block in channels)
