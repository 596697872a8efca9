"""Decoding against files written here, and the spectrogram against librosa's plain calls."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from fdan.errors import ConfigError, DataError
from fdan.media import video
from fdan.media.audio import read_speech, window
from fdan.media.faces import CENTRE, FOUND, WHOLE, FaceSettings, face_image, read_image
from fdan.media.pixels import (
    image_shape,
    read_pixels,
    settings_from_dict,
    settings_to_dict,
)
from fdan.media.spectrogram import SpectrogramSettings, _resize, log_mel, spectrogram_image
from fdan.media.video import _positions, read_frames

RATE = 16000
SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def tone(seconds: float, hertz: float = 440.0, rate: int = RATE) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_avi(path: Path, count: int, size: tuple[int, int] = (64, 48)) -> None:
    """Frame i is grey of brightness 2 i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, size)
    for index in range(count):
        writer.write(np.full((size[1], size[0], 3), 2 * index, np.uint8))
    writer.release()


def write_mp4(path: Path, count: int = 30, sound: NDArray[np.float32] | None = None) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE) if sound is not None else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * index, np.uint8), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


# --- sound


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    left, right = tone(0.5), np.zeros(RATE // 2, np.float32)
    soundfile.write(path, np.stack([left, right], axis=1), RATE)
    speech = read_speech(path, RATE)
    assert speech.dtype == np.float32
    np.testing.assert_allclose(speech, left / 2, atol=1e-4)


def test_resampled_as_librosa_does(tmp_path: Path) -> None:
    import librosa

    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.normal(0, 0.1, 48000).astype(np.float32), 48000, subtype="FLOAT")
    expected, _ = librosa.load(path, sr=RATE)
    np.testing.assert_allclose(read_speech(path, RATE), expected, atol=1e-6)


def test_sound_track_of_a_video(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", sound=tone(1.0))
    speech = read_speech(tmp_path / "a.mp4", RATE)
    assert abs(len(speech) - RATE) <= 2048  # AAC pads to whole frames
    spectrum = np.abs(np.fft.rfft(speech[4000:12000]))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 2


def test_video_without_sound(tmp_path: Path) -> None:
    write_avi(tmp_path / "a.avi", 5)
    with pytest.raises(DataError, match="has no sound track"):
        read_speech(tmp_path / "a.avi", RATE)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4"])
def test_truncated_sound_gives_its_beginning(suffix: str, tmp_path: Path) -> None:
    whole, half = tmp_path / f"whole{suffix}", tmp_path / f"half{suffix}"
    if suffix == ".mp4":
        # The index of an mp4 lies behind the media: without it nothing is left.
        write_mp4(whole, sound=tone(2.0))
        half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(DataError, match="cannot be decoded"):
            read_speech(half, RATE)
        return
    rng = np.random.default_rng(0)
    soundfile.write(whole, rng.normal(0, 0.1, 2 * RATE), RATE)
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    speech = read_speech(half, RATE)
    assert 0.35 * 2 * RATE < len(speech) < 0.6 * 2 * RATE
    np.testing.assert_allclose(speech[:8000], read_speech(whole, RATE)[:8000], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"not sound at all" * 10, "cannot be decoded"),
        ("header", "holds no sound"),
        ("silence", "is silent"),
        ("nan", "not finite"),
    ],
)
def test_useless_sound(content: bytes | str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        samples = {"header": 0, "silence": RATE, "nan": RATE}[content]
        value = np.nan if content == "nan" else 0.0
        soundfile.write(path, np.full(samples, value, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=reason):
        read_pixels(path, SpectrogramSettings())


def test_window_is_the_middle() -> None:
    speech = np.arange(1, 11, dtype=np.float32)
    assert window(speech, 4).tolist() == [4, 5, 6, 7]
    assert window(speech, 5).tolist() == [3, 4, 5, 6, 7]
    assert window(speech[:3], 6).tolist() == [0, 1, 2, 3, 0, 0]
    assert window(speech[:3], 8).tolist() == [0, 0, 1, 2, 3, 0, 0, 0]
    quiet_middle = np.concatenate([np.ones(10), np.zeros(10), np.ones(10)]).astype(np.float32)
    with pytest.raises(DataError, match="silent"):
        window(quiet_middle, 10)


# --- spectrograms


@pytest.mark.parametrize(
    "settings",
    [
        SpectrogramSettings(),
        SpectrogramSettings(sample_rate=22050, n_fft=2048, hop=512, mels=64, seconds=1.3),
        SpectrogramSettings(sample_rate=8000, n_fft=400, hop=160, mels=40, seconds=0.5),
        SpectrogramSettings(n_fft=1001, mels=64, seconds=0.5),
        SpectrogramSettings(n_fft=4096, hop=9999, mels=64, seconds=0.3),
    ],
)
def test_log_mel_is_librosas(settings: SpectrogramSettings) -> None:
    import librosa

    rng = np.random.default_rng(1)
    loudness = np.linspace(0, 1, settings.length) ** 4
    speech = (rng.normal(0, 0.2, settings.length) * loudness).astype(np.float32)
    speech += tone(settings.seconds, 300, settings.sample_rate)[: settings.length]
    power = librosa.feature.melspectrogram(
        y=speech,
        sr=settings.sample_rate,
        n_fft=settings.n_fft,
        hop_length=settings.hop,
        n_mels=settings.mels,
    )
    expected = librosa.power_to_db(power, ref=np.max, top_db=80)
    ours = log_mel(speech, settings)
    assert ours.shape == expected.shape and ours.dtype == np.float32
    # A hundred-thousandth of the range: librosa transforms float32 speech in single precision.
    np.testing.assert_allclose(ours, expected, atol=80e-5, rtol=0)


def test_a_fixed_reference_keeps_loud_and_soft_apart() -> None:
    speech = tone(1.0, 300)
    images = {
        reference: [
            spectrogram_image(gain * speech, SpectrogramSettings(seconds=1.0, reference=reference))
            for gain in (np.float32(1), np.float32(0.1))
        ]
        for reference in ("clip", "fixed")
    }
    loud, soft = images["clip"]
    assert np.array_equal(loud, soft)
    loud, soft = images["fixed"]
    # A tenth of the amplitude is 20 dB less, a quarter of the range.
    assert abs(np.median(loud[soft > 0] - soft[soft > 0]) - 255 / 4) <= 1
    assert not spectrogram_image(
        0 * speech, SpectrogramSettings(seconds=1.0, reference="fixed")
    ).any()


def test_a_later_setting_leaves_earlier_stores_what_they_are() -> None:
    stored = settings_to_dict(SpectrogramSettings())
    assert "reference" not in stored
    fixed = SpectrogramSettings(reference="fixed")
    assert settings_to_dict(fixed)["reference"] == "fixed"
    assert settings_from_dict("acoustic", settings_to_dict(fixed)) == fixed


def test_image_orientation_and_range() -> None:
    settings = SpectrogramSettings(seconds=1.0, spectrogram_size=96)
    low = np.concatenate([tone(0.5, 150), np.zeros(RATE // 2, np.float32)])
    image = spectrogram_image(low, settings)
    assert image.shape == (96, 96, 1) and image.dtype == np.uint8
    assert image.max() > 245 and image.min() == 0
    assert np.argmax(image[:, 20, 0]) < 10  # row 0 is the lowest band
    assert image[:, :40].mean() > 2 * image[:, -40:].mean()  # time runs to the right


@pytest.mark.parametrize("size", [32, 64, 96, 127, 128, 160, 224])
@pytest.mark.parametrize("frames", [94, 301, 1000])
def test_images_are_resized_as_opencv_does(frames: int, size: int) -> None:
    """To the bit: stores that OpenCV's own made stay what they are."""
    grey = np.random.default_rng(size).uniform(0, 255, (128, frames)).astype(np.float32)
    shrinks = size < min(grey.shape)
    way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    assert np.array_equal(_resize(grey, size), cv2.resize(grey, (size, size), interpolation=way))


def test_too_many_bands_are_refused() -> None:
    with pytest.raises(ConfigError, match="mels = 512: too many"):
        SpectrogramSettings(mels=512)


# --- video


def test_positions() -> None:
    assert _positions(90, 3) == [15, 45, 75]
    assert _positions(3, 3) == [0, 1, 2]
    assert _positions(2, 3) == [0, 1]
    assert _positions(1, 3) == [0]
    assert _positions(0, 3) == []


def brightness(path: Path, frames: int = 3) -> list[int]:
    return [round(float(frame.mean()) / 2) for frame in read_frames(path, frames)]


@pytest.mark.parametrize("count", [1, 2, 3, 30, 100])
def test_frames_are_the_uniformly_spaced_ones(count: int, tmp_path: Path) -> None:
    write_avi(tmp_path / "a.avi", count)
    np.testing.assert_allclose(brightness(tmp_path / "a.avi"), _positions(count, 3), atol=1)
    write_mp4(tmp_path / "a.mp4", count)
    np.testing.assert_allclose(brightness(tmp_path / "a.mp4"), _positions(count, 3), atol=2)


@pytest.mark.parametrize("form", ["yuvj420p", "yuvj422p", "yuvj444p"])
@pytest.mark.parametrize("size", [(64, 48), (107, 61)])
def test_of_motion_jpeg_only_the_wanted_frames_are_decoded(
    form: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        track = container.add_stream("mjpeg", rate=25)
        track.width, track.height, track.pix_fmt = *size, form
        track.codec_context.color_range = 2
        for _ in range(20):
            image = random.integers(0, 255, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
            container.mux(track.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
        container.mux(track.encode(None))
    wanted = _positions(20, 3)
    expected, _ = video._pass(tmp_path / "a.avi", wanted)
    monkeypatch.setattr(video, "_pass", lambda *_: pytest.fail("all frames are decoded"))
    found = read_frames(tmp_path / "a.avi", 3)
    assert len(found) == len(expected) == 3
    for frame, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(frame, other)


def test_truncated_video_gives_what_decodes(tmp_path: Path) -> None:
    write_avi(tmp_path / "whole.avi", 100)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    capture, count = cv2.VideoCapture(str(tmp_path / "half.avi")), 0
    while capture.read()[0]:
        count += 1
    assert 20 < count < 80
    np.testing.assert_allclose(brightness(tmp_path / "half.avi"), _positions(count, 3), atol=1)


@pytest.mark.parametrize("lie", [0, 7, 100_000])
def test_frame_counts_that_lie(lie: int, tmp_path: Path) -> None:
    write_avi(tmp_path / "a.avi", 60)
    data = bytearray((tmp_path / "a.avi").read_bytes())
    # dwTotalFrames of the main header, and dwLength of the stream's.
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, lie)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, lie)
    (tmp_path / "liar.avi").write_bytes(data)
    np.testing.assert_allclose(brightness(tmp_path / "liar.avi"), _positions(60, 3), atol=1)


def test_frames_that_do_not_decode_are_not_counted(tmp_path: Path) -> None:
    write_avi(tmp_path / "a.avi", 60)
    data = bytearray((tmp_path / "a.avi").read_bytes())
    at = data.index(b"movi") + 4
    for index in range(60):
        size = struct.unpack_from("<I", data, at + 4)[0]
        if index >= 30:
            data[at + 8 : at + 8 + size] = bytes(size)
        at += 8 + size + size % 2
    (tmp_path / "damaged.avi").write_bytes(data)
    np.testing.assert_allclose(brightness(tmp_path / "damaged.avi"), _positions(30, 3), atol=1)


@pytest.mark.parametrize("content", [b"nonsense" * 100, "header", "no frame", "sound"])
def test_useless_video(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    if content == "header":
        write_avi(tmp_path / "whole.avi", 50)
        path.write_bytes((tmp_path / "whole.avi").read_bytes()[:2000])
    elif content == "no frame":
        write_avi(tmp_path / "whole.avi", 50)
        data = (tmp_path / "whole.avi").read_bytes()
        path.write_bytes(data[: data.index(b"movi") + 4])
    elif content == "sound":
        soundfile.write(tmp_path / "a.wav", tone(0.2), RATE)
        path.write_bytes((tmp_path / "a.wav").read_bytes())
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be decoded|no frame|no picture"):
        read_pixels(path, FaceSettings())


# --- faces


def test_small_still_images_are_taken_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "ä.png"), image)
    pixels = read_pixels(tmp_path / "ä.png", FaceSettings(face_size=48))
    assert pixels.counts == {WHOLE: 1}
    np.testing.assert_array_equal(pixels.images[0], image[:, :, ::-1])  # RGB
    always = read_pixels(tmp_path / "ä.png", FaceSettings(face_size=48, detect="always"))
    assert always.counts == {CENTRE: 1}


def test_centre_crop_is_counted(tmp_path: Path) -> None:
    write_avi(tmp_path / "a.avi", 10, size=(80, 60))
    pixels = read_pixels(tmp_path / "a.avi", FaceSettings(face_size=32))
    assert pixels.images.shape == (3, 32, 32, 3) and pixels.counts == {CENTRE: 3}
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 20:80] = 200
    face, how = face_image(image, FaceSettings(face_size=30, detect="never"), still=True)
    assert how == CENTRE and (face == 200).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_a_face_is_found_where_it_is() -> None:
    """Faces of FER2013, enlarged and put into a wide frame."""
    found = 0
    files = sorted((SHARED / "fer2013/train/happy").glob("*.jpg"))[:20]
    for file in files:
        frame = np.full((360, 640, 3), 90, np.uint8)
        frame[60:260, 380:580] = cv2.resize(read_image(file), (200, 200))
        face, how = face_image(frame, FaceSettings(face_size=64), still=False)
        if how == FOUND:
            reference = cv2.resize(read_image(file), (64, 64))[:, :, 0].astype(float)
            likeness = np.corrcoef(reference.ravel(), face[:, :, 0].ravel())[0, 1]
            assert likeness > 0.2
            found += 1
    # FER2013's crops are tighter than what the cascade was trained on.
    assert found >= len(files) // 4


# --- settings


@pytest.mark.parametrize("modality", ["acoustic", "visual"])
def test_settings_come_back(modality: str) -> None:
    settings = SpectrogramSettings() if modality == "acoustic" else FaceSettings()
    stored = settings_to_dict(settings)
    assert settings_from_dict(modality, stored) == settings
    assert image_shape(settings) == (224, 224, 1 if modality == "acoustic" else 3)
    with pytest.raises(DataError, match="version 0"):
        settings_from_dict(modality, {**stored, "version": 0})


NO_CACHE = """
import numba.core.caching as caching
def refuse(self):
    raise OSError("read-only")
for name in dir(caching):
    if name.lstrip("_") in ("InTreeCacheLocator", "UserWideCacheLocator"):
        getattr(caching, name).ensure_cache_path = refuse
import numpy as np
from fdan.media.spectrogram import SpectrogramSettings, log_mel
print(log_mel(np.zeros(1024, np.float32), SpectrogramSettings()).shape[0])
"""


def test_where_numba_has_no_folder_for_its_cache_it_gets_one() -> None:
    """Containers whose packages and home are read-only."""
    command, root = [sys.executable, "-c", NO_CACHE], Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout == "128\n", done.stderr
