"""A speaker's utterances of one emotion, written as WAV and AVI files."""

from __future__ import annotations

import itertools
import wave
from collections.abc import Generator, Iterable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fdan.corpora.demo.face import FRAME_RATE, SIZE, Face, film
from fdan.corpora.demo.settings import CODES, DemoSettings, speaker_name
from fdan.corpora.demo.voice import SAMPLE_RATE, Array, Sentence, Voice, speak
from fdan.emotions import EMOTIONS


def write_part(
    folder: Path, settings: DemoSettings, part: int = 0, parts: int = 1
) -> Generator[int, None, None]:
    """Write one of several parts of a corpus: every `parts`-th cell.

    Args:
        folder: Folder of the corpus.
        settings: Settings of its content.
        part: Index of the part, from 0.
        parts: Number of parts.

    Yields:
        Number of utterances written since the last.
    """
    cells = itertools.product(range(settings.speakers), EMOTIONS)
    for speaker, emotion in itertools.islice(cells, part, None, parts):
        yield _write_cell(folder, settings, speaker, emotion)


def _write_cell(folder: Path, settings: DemoSettings, speaker: int, emotion: str) -> int:
    """All takes of one speaker and emotion; returns how many."""
    name = speaker_name(speaker)
    voice = Voice.draw(np.random.default_rng([settings.seed, speaker, 1]))
    face = Face.draw(np.random.default_rng([settings.seed, speaker, 2]))
    for take in range(settings.takes):
        # As in SAVEE, all say the same sentences: the words carry no emotion and no speaker.
        sentence = Sentence.draw(np.random.default_rng([settings.seed, take, 3]))
        rng = np.random.default_rng([settings.seed, speaker, EMOTIONS.index(emotion), take, 4])
        sound, opening = speak(voice, sentence, emotion, rng)
        file = f"{CODES[emotion]}{take + 1:02d}"
        _write_wav(folder / "AudioData" / name / f"{file}.wav", sound)
        _write_avi(folder / "VisualData" / name / f"{file}.avi", film(face, emotion, opening, rng))
    return settings.takes


def _write_wav(path: Path, sound: Array) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def _write_avi(path: Path, frames: Iterable[npt.NDArray[np.uint8]]) -> None:
    # OpenCV's own writer, not FFmpeg's: the same bytes whatever FFmpeg is installed.
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, codec, FRAME_RATE, (SIZE, SIZE))
    try:
        if not writer.isOpened():
            raise OSError(f"{path}: OpenCV cannot write MJPG video here")
        for frame in frames:
            writer.write(frame)
    finally:
        writer.release()
