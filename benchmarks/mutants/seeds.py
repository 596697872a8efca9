"""Whole media files to mutate: small, real, and the same for the same seed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import soundfile

from fdan.corpora.demo import generate

Seeds = dict[str, list[bytes]]
"""Contents of whole files by kind: wav, flac, avi, mp4, jpg."""

# Sides in pixels of the still images: faces as FER2013 has them, and frames that hold a face.
_IMAGE_SIDES: Final = (48, 128, 320)


def make_seeds(folder: Path, seed: int) -> Seeds:
    """Wav and avi of two demo speakers, and the same sounds and pictures as flac, mp4 and jpg.

    Args:
        folder: where the demo corpus is written; it may be removed afterwards.
    """
    corpus = generate(folder, speakers=2, takes=1, uneven=False, seed=seed, workers=1)
    clips = sorted((corpus / "AudioData").rglob("*.wav"))
    films = sorted((corpus / "VisualData").rglob("*.avi"))
    pictures = [_frames(film) for film in films]
    return {
        "wav": [clip.read_bytes() for clip in clips],
        "flac": [_flac(clip, number) for number, clip in enumerate(clips)],
        "avi": [film.read_bytes() for film in films],
        "mp4": [_mp4(film, clip) for film, clip in zip(pictures, clips, strict=True)],
        "jpg": [_jpg(film[0], number) for number, film in enumerate(pictures)],
    }


def _frames(film: Path) -> list[Any]:
    capture = cv2.VideoCapture(str(film))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert frames, film
    return frames


def _flac(clip: Path, number: int) -> bytes:
    """Mono with 16 bits, and now and then stereo with 24."""
    sound, rate = soundfile.read(clip, dtype="float32")
    stereo = number % 3 == 0
    samples = np.stack([sound, sound], axis=1) if stereo else sound
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_24" if stereo else "PCM_16")
    return file.getvalue()


def _mp4(frames: list[Any], clip: Path) -> bytes:
    """H.264 and AAC, as MELD's clips are."""
    sound, rate = soundfile.read(clip, dtype="float32")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("h264", rate=25)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, "bgr24")))
        container.mux(video.encode(None))
        block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        block.sample_rate = rate
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return file.getvalue()


def _jpg(frame: Any, number: int) -> bytes:
    side = _IMAGE_SIDES[number % len(_IMAGE_SIDES)]
    encoded, data = cv2.imencode(".jpg", cv2.resize(frame, (side, side)))
    assert encoded
    return bytes(data)
