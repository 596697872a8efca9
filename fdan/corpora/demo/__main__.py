"""One of the processes that write a demo corpus side by side.

It writes each speaker's utterances of one emotion as WAV and AVI files.
"""

import itertools
import json
import os
import signal
import sys
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fdan.corpora.demo import CODES, DemoSettings, speaker_name
from fdan.corpora.demo.voice import SAMPLE_RATE, Array, Sentence, Voice, speak
from fdan.emotions import EMOTIONS
from fdan.machine.libraries import load_library, why_not_loaded

# Which needs OpenCV: a line says why there is none.
try:
    from fdan.corpora.demo.face import FRAME_RATE, SIZE, Face, film
except ImportError as error:
    sys.exit(f"error: a demo corpus {why_not_loaded('cv2', error)}")


def _work(task: str) -> None:
    """Write every `parts`-th speaker and emotion, a count on stdout for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    folder, values, part, parts = json.loads(task)
    settings = DemoSettings.from_mapping(values)
    cells = itertools.product(range(settings.speakers), EMOTIONS)
    try:
        load_library("cv2").setNumThreads(1)
        for speaker, emotion in itertools.islice(cells, part, None, parts):
            _write_cell(Path(folder), settings, speaker, emotion)
            # One write, which the pipe keeps whole; print makes two where PYTHONUNBUFFERED is set.
            os.write(sys.stdout.fileno(), f"{settings.utterances(emotion)}\n".encode())
    except OSError as error:  # a full disk, say
        sys.exit(f"error: {error}")


def _write_cell(folder: Path, settings: DemoSettings, speaker: int, emotion: str) -> None:
    """All takes of one speaker and emotion."""
    name = speaker_name(speaker)
    voice = Voice(np.random.default_rng([settings.seed, speaker, 1]))
    face = Face(np.random.default_rng([settings.seed, speaker, 2]))
    for take in range(settings.utterances(emotion)):
        # As in SAVEE, all say the same sentences: the words carry no emotion and no speaker.
        sentence = Sentence(np.random.default_rng([settings.seed, take, 3]))
        rng = np.random.default_rng([settings.seed, speaker, EMOTIONS.index(emotion), take, 4])
        sound, opening = speak(voice, sentence, emotion, rng)
        file = f"{CODES[emotion]}{take + 1:02d}"
        if take < settings.sounds(emotion):
            _write_wav(folder / "AudioData" / name / f"{file}.wav", sound)
        if take < settings.takes:
            frames = film(face, emotion, opening, rng)
            _write_avi(folder / "VisualData" / name / f"{file}.avi", frames)


def _write_wav(path: Path, sound: Array) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def _write_avi(path: Path, frames: Iterable[npt.NDArray[np.uint8]]) -> None:
    cv2 = load_library("cv2")
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


if __name__ == "__main__":
    _work(sys.argv[1])
