"""Small corpora in the published layouts of MELD, RAVDESS and FER2013, made from a demo corpus."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2

MELD_PARTS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
MELD_WORDS = {"a": "anger", "d": "disgust", "f": "fear", "h": "joy"}
MELD_WORDS |= {"n": "neutral", "sa": "sadness", "su": "surprise"}
RAVDESS_CODES = {"n": 1, "h": 3, "sa": 4, "a": 5, "f": 6, "d": 7, "su": 8}
FER_FOLDERS = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy"}
FER_FOLDERS |= {"n": "neutral", "sa": "sad", "su": "surprise"}


def code(path: Path) -> str:
    """SAVEE's letter or letters for an emotion."""
    return path.stem.rstrip("0123456789")


def meld(corpus: Path, root: Path, *, missing: int = 0) -> Path:
    """Each part holds every utterance; the first `missing` rows of each table have no clip. Clips
    bear a sound track, so that they serve both modalities."""
    films = sorted((corpus / "VisualData").rglob("*.avi"))
    for part, folder in MELD_PARTS.items():
        (root / folder).mkdir(parents=True)
        with (root / f"{part}_sent_emo.csv").open("w", newline="") as table:
            rows = csv.writer(table)
            rows.writerow(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for number, film in enumerate(films):
                emotion = MELD_WORDS[code(film)]
                rows.writerow([f"{part} {number}", film.parent.name, emotion, number, 0])
                if number >= missing:
                    sound = corpus / "AudioData" / film.parent.name / f"{film.stem}.wav"
                    _with_sound(film, sound, root / folder / f"dia{number}_utt0.mp4", part)
    return root


def ravdess(corpus: Path, root: Path) -> Path:
    """Speech and video under RAVDESS's names."""
    clips = sorted((corpus / "AudioData").rglob("*.wav"))
    speakers = sorted({clip.parent.name for clip in clips})
    for clip in clips:
        actor = speakers.index(clip.parent.name) + 1
        take = int(clip.stem[len(code(clip)) :])
        folder = root / f"Actor_{actor:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{RAVDESS_CODES[code(clip)]:02d}-01-{take:02d}-01-{actor:02d}"
        shutil.copy(clip, folder / f"03-01-{name}.wav")
        film = corpus / "VisualData" / clip.parent.name / f"{clip.stem}.avi"
        shutil.copy(film, folder / f"02-01-{name}.mp4")
    return root


def fer2013(corpus: Path, root: Path) -> Path:
    """The first frame of each video as a small grey image in a class folder."""
    for number, film in enumerate(sorted((corpus / "VisualData").rglob("*.avi"))):
        folder = root / FER_FOLDERS[code(film)]
        folder.mkdir(parents=True, exist_ok=True)
        frames = cv2.VideoCapture(str(film))
        read, frame = frames.read()
        assert read
        grey = cv2.cvtColor(cv2.resize(frame, (48, 48)), cv2.COLOR_BGR2GRAY)
        cv2.imwrite(str(folder / f"Training_{number}.jpg"), grey)
    return root


def _with_sound(film: Path, sound: Path, out: Path, note: str) -> None:
    """The film's pictures and the sound's samples in one mp4. `note` makes each part's file
    another one, as they are in MELD."""
    import av

    with av.open(str(out), "w") as target, av.open(str(film)) as pictures:
        target.metadata["comment"] = note
        first = pictures.streams.video[0]
        video = target.add_stream("mpeg4", rate=first.average_rate)
        video.width, video.height, video.pix_fmt = first.width, first.height, "yuv420p"
        audio = target.add_stream("aac", rate=16000)
        for frame in pictures.decode(video=0):
            frame.pts = None
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        with av.open(str(sound)) as samples:
            for frame in samples.decode(audio=0):
                target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
