"""Which of a file's sound is read: the right track, all of it, and channels that cancel out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from fdan.media.audio import CUT, LOUDEST, read_speech
from fdan.media.container import SEVERAL_STREAMS

RATE = 16000
SECONDS = 1.5


def tone(hertz: float, rate: int = RATE) -> NDArray[np.float32]:
    time = np.arange(round(SECONDS * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def pitch(speech: NDArray[np.float32]) -> float:
    """Frequency of the loudest tone, in Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(speech))) * RATE / len(speech))


def encode(
    path: Path,
    *tracks: NDArray[np.float32],
    default: int | None = None,
    codec: str = "aac",
    rate: int = RATE,
) -> None:
    """Each track, (channels, samples), in a coding; one of them is the default one."""
    form = {".aac": "adts", ".wma": "asf"}.get(path.suffix)
    with av.open(str(path), "w", format=form) as container:
        streams = []
        for number, track in enumerate(tracks):
            layout = "stereo" if len(track) == 2 else "mono"
            stream = container.add_stream(codec, rate=rate, layout=layout)
            stream.bit_rate = 96000
            if default is not None:
                flag = av.stream.Disposition.default if number == default else 0
                stream.disposition = av.stream.Disposition(flag)
            streams.append((stream, layout, track))
        for stream, layout, track in streams:
            frame = av.AudioFrame.from_ndarray(track, format="fltp", layout=layout)
            frame.sample_rate = rate
            coder = stream.codec_context
            resampler = av.AudioResampler(coder.format, layout, rate, coder.frame_size or 1024)
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                container.mux(stream.encode(part))


def write_channels(path: Path, channels: NDArray[np.float32]) -> None:
    if path.suffix == ".m4a":
        encode(path, channels)
    else:
        soundfile.write(path, channels.T, RATE)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
def test_of_channels_that_cancel_out_the_loudest_is_taken(suffix: str, tmp_path: Path) -> None:
    path, speech = tmp_path / f"a{suffix}", tone(300)
    channels = np.stack([0.98 * speech, -speech])
    write_channels(path, channels)
    counts: Counter[str] = Counter()
    read = read_speech(path, RATE, counts)
    assert counts[LOUDEST] == 1
    assert abs(pitch(read) - 300) < 2
    assert float(np.abs(read[4000:20000]).max()) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
def test_channels_that_cancel_out_in_a_part_only(suffix: str, tmp_path: Path) -> None:
    path, speech = tmp_path / f"a{suffix}", np.tile(tone(300), 2)
    for begins, ends in ((len(speech) // 2, len(speech)), (9000, 9000 + RATE)):
        turned = speech.copy()
        turned[begins:ends] *= -1
        write_channels(path, np.stack([speech, turned]))
        counts: Counter[str] = Counter()
        read = read_speech(path, RATE, counts)
        assert counts[LOUDEST] == 1
        assert read[begins + 2000 : ends - 2000].std() == pytest.approx(speech.std(), rel=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
def test_a_constant_is_no_sound(suffix: str, tmp_path: Path) -> None:
    path, speech = tmp_path / f"a{suffix}", tone(300)
    write_channels(path, np.stack([0.5 * speech + 0.4, -0.5 * speech + 0.4]))
    counts: Counter[str] = Counter()
    read = read_speech(path, RATE, counts)
    assert counts[LOUDEST] == 1
    assert read[4000:20000].std() == pytest.approx(0.5 * speech.std(), rel=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
def test_pauses_are_not_judged(suffix: str, tmp_path: Path) -> None:
    path, speech = tmp_path / f"a{suffix}", tone(300)
    noise = np.random.default_rng(0).normal(0, 0.001, len(speech)).astype(np.float32)
    left, right = np.concatenate([speech, noise]), np.concatenate([speech, -noise])
    write_channels(path, np.stack([left, right]))
    counts: Counter[str] = Counter()
    read_speech(path, RATE, counts)
    assert not counts[LOUDEST]


@pytest.mark.parametrize("second", [tone(500), np.zeros(round(SECONDS * RATE), np.float32)])
def test_other_channels_are_averaged(second: NDArray[np.float32], tmp_path: Path) -> None:
    channels = np.stack([tone(300), second])
    for suffix in (".wav", ".flac", ".m4a"):
        path = tmp_path / f"a{suffix}"
        write_channels(path, channels)
        counts: Counter[str] = Counter()
        read = read_speech(path, RATE, counts)
        assert counts[LOUDEST] == 0
        middle = slice(6000, 18000)
        assert read[middle].std() == pytest.approx(channels.mean(axis=0)[middle].std(), rel=0.05)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".flac"])
def test_joined_files_are_read_to_the_end(suffix: str, tmp_path: Path) -> None:
    first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    soundfile.write(first, tone(300), RATE)
    soundfile.write(second, tone(700), RATE)
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    speech = read_speech(joined, RATE)
    assert 2 * SECONDS <= len(speech) / RATE < 2 * SECONDS + 0.2
    half = len(speech) // 2
    assert abs(pitch(speech[:half]) - 300) < 5 and abs(pitch(speech[half:]) - 700) < 5


def test_a_form_that_changes_on_the_way_is_decoded_through(tmp_path: Path) -> None:
    first, second = tmp_path / "1.mp3", tmp_path / "2.mp3"
    soundfile.write(first, tone(300), RATE)
    soundfile.write(second, np.stack([tone(700, 22050)] * 2, axis=1), 22050)
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    speech = read_speech(joined, RATE)
    assert len(speech) / RATE == pytest.approx(2 * SECONDS, abs=0.3)
    assert abs(pitch(speech[-RATE:]) - 700) < 5


def test_wav_files_that_declare_less_than_they_hold(tmp_path: Path) -> None:
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, tone(300), RATE)
    data = whole.read_bytes()
    cases = {
        "whole": (data, SECONDS, 0),
        "joined": (data + data, SECONDS, 1),
        "short": (data[:40] + (1000).to_bytes(4, "little") + data[44:], 500 / RATE, 1),
        "never completed": (data[:40] + bytes(4) + data[44:], SECONDS, 0),
        "padded": (data + bytes(4096), SECONDS, 0),
        "tagged": (data + b"LIST" + (4).to_bytes(4, "little") + b"INFO", SECONDS, 0),
    }
    for name, (content, seconds, told) in cases.items():
        path = tmp_path / f"{name}.wav"
        path.write_bytes(content)
        counts: Counter[str] = Counter()
        assert len(read_speech(path, RATE, counts)) / RATE == pytest.approx(seconds), name
        assert counts[CUT] == told, name


def write_kind(path: Path) -> bytes:
    """A file of the kind that its name says: `a.RF64.wav`."""
    kind = path.suffixes[0][1:]
    if kind in ("m4a", "mp4", "mov", "3gp", "flv"):
        encode(path, tone(300)[None])
    elif kind == "wma":
        encode(path, np.stack([tone(300, 44100)] * 2), rate=44100, codec="wmav2")
    elif kind == "RIFX":
        soundfile.write(path, tone(300), RATE, "PCM_16", endian="BIG", format="WAV")
    else:
        soundfile.write(path, tone(300), RATE, "PCM_16", format=kind)
    return path.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "RF64.wav",
        "RIFX.wav",
        "WAVEX.wav",
        "AIFF.aiff",
        "AU.au",
        "CAF.caf",
        "m4a",
        "mp4",
        "mov",
        "3gp",
        "flv",
        "wma",
    ],
)
def test_of_joined_files_of_other_kinds_it_is_told_that_not_all_is_read(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{name}"
    data = write_kind(path)
    cases = {"whole": (data, 0), "joined": (data + data, 1)}
    if "." in name:  # without an index at the end
        wav = write_kind(tmp_path / "b.WAV.wav")
        cases["another kind"], cases["padded"] = (data + wav, 1), (data + bytes(5000), 0)
        cases["padded and joined"] = (data + bytes(4096) + data, 1)
        cases["broken off"] = (data[:-3000], 0)
    for case, (content, told) in cases.items():
        path.write_bytes(content)
        counts: Counter[str] = Counter()
        read_speech(path, RATE, counts)
        assert counts[CUT] == told, case


@pytest.mark.parametrize(
    ("kind", "order"),
    [(kind, "BIG") for kind in ("AIFF", "AU", "CAF", "WAV")]
    + [(kind, "LITTLE") for kind in ("AU", "CAF", "RF64", "WAV")],
)
def test_samples_behind_the_declared_ones_are_told(kind: str, order: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    speech = np.round(tone(300) * 2**15).astype(np.int16)
    soundfile.write(path, speech, RATE, "PCM_16", format=kind, endian=order)
    data = path.read_bytes()
    for more in (speech, np.concatenate([np.zeros(100, np.int16), speech])):
        path.write_bytes(data + more.astype("<i2" if order == "LITTLE" else ">i2").tobytes())
        counts: Counter[str] = Counter()
        assert len(read_speech(path, RATE, counts)) / RATE == pytest.approx(SECONDS)
        assert counts[CUT] == 1


@pytest.mark.parametrize("kind", ["mka", "webm", "aac", "ogg", "avi", "mkv", "ts"])
def test_joined_files_of_kinds_that_are_read_to_the_end(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    codec = {"avi": "pcm_s16le", "webm": "libopus", "ogg": "libopus"}.get(kind, "aac")
    rate = 48000 if codec == "libopus" else RATE
    encode(path, tone(300, rate)[None], codec=codec, rate=rate)
    path.write_bytes(path.read_bytes() * 2)
    counts: Counter[str] = Counter()
    length = len(read_speech(path, RATE, counts)) / RATE
    assert length == pytest.approx(2 * SECONDS, abs=0.3) and not counts[CUT]


def test_the_default_sound_track_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    encode(path, tone(300)[None], tone(700)[None], default=1)
    counts: Counter[str] = Counter()
    assert abs(pitch(read_speech(path, RATE, counts)) - 700) < 5
    assert counts[SEVERAL_STREAMS["audio"]] == 1
    encode(path, tone(300)[None])
    counts.clear()
    assert abs(pitch(read_speech(path, RATE, counts)) - 300) < 5
    assert not +counts
