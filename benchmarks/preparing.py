"""python -m benchmarks.preparing: media to stores, beside librosa and OpenCV used naively."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.comparing import Turns, by_turns, count, heading, machine, parser, write
from fdan.corpora import Source, read
from fdan.corpora.demo import generate
from fdan.data.prepare import prepare
from fdan.data.store import Store
from fdan.machine.cpus import cpu_count
from fdan.media.faces import FaceSettings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.video import _positions, read_frames

ABOUT = """\
The same files to the same images, by turns in the same run:

ours      fdan.data.prepare.prepare into a new folder, from the corpus to the store on disk: files
          hashed, a process a core started and decoding, images and manifest written
naive     one process, warm (librosa and OpenCV imported, librosa's caches filled), nothing written.
          Speech: librosa.load at 16 kHz, its middle 3 s, librosa.feature.melspectrogram,
          power_to_db, resized. Video: cv2.VideoCapture, CAP_PROP_POS_FRAMES to each of three
          frames, grey, shrunk to 320 pixels and equalised as ours, all faces that detectMultiScale
          finds, the largest cut out with its margin and resized. One process is not one core:
          OpenCV's cascade and H.264 decoder use all of them by themselves

Corpora: the demo corpus (wav at 16 kHz; 128 x 128 MJPG at 8 frames/s); its speech as often as it
takes for the size of a published corpus (RAVDESS has 1248 utterances of the seven emotions); some
of its faces again as such a corpus has them (mp4, H.264, 25 frames/s, 640 x 480);
folders of your own with --speech and --video (all files that a `folders` corpus has below them).

Equal: speech images to one grey level of 255 (ours has librosa transform in double precision).
Frames to the last bit, where the container can seek exactly, and the face images of equal frames,
too; told is also how far the boxes of all faces overlap.

exit codes: 0 the goals are reached, 1 one is not: 2.5 times as fast for video, on two cores; speech
images equal to one grey level, face images of equal frames to the last bit. Speech has no goal of
speed: librosa makes both, and each of our processes takes seconds to import it."""

GOAL: Final = 2.5
"""Of video: how many times as fast as the naive form."""
GREY_GOAL: Final = 1
SPEAKERS: Final = 12
TAKES: Final = 6
UTTERANCES: Final = 1248
FILMS: Final = 84
# Files of which frames and faces are compared one by one.
COMPARED: Final = 40


@dataclass(frozen=True)
class Naive:
    """What one process of a naive user makes."""

    settings: SpectrogramSettings | FaceSettings

    def __call__(self, path: Path) -> NDArray[np.uint8]:
        if isinstance(self.settings, SpectrogramSettings):
            return naive_speech(path, self.settings)
        return np.stack([face for face, _, _ in naive_faces(path, self.settings)])


def naive_speech(path: Path, settings: SpectrogramSettings) -> NDArray[np.uint8]:
    import librosa

    speech, rate = librosa.load(path, sr=settings.sample_rate)
    excess = len(speech) - settings.length
    if excess >= 0:
        speech = speech[excess // 2 : excess // 2 + settings.length]
    else:
        speech = np.pad(speech, (-excess // 2, -excess - (-excess // 2)))
    power = librosa.feature.melspectrogram(
        y=speech, sr=rate, n_fft=settings.n_fft, hop_length=settings.hop, n_mels=settings.mels
    )
    decibels = librosa.power_to_db(power, ref=np.max)
    size = settings.spectrogram_size
    image = cv2.resize((decibels + 80) * (255 / 80), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)[None, :, :, None]


Box = tuple[int, int, int, int]


def naive_faces(
    path: Path, settings: FaceSettings
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8], Box]]:
    """Of each frame: the face, the frame itself, and the face's box in it."""
    capture, found = cv2.VideoCapture(str(path)), []
    for index in _positions(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), settings.frames):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        read_one, frame = capture.read()
        if not read_one:
            continue
        x, y, side = _naive_box(frame, settings)
        size = settings.face_size
        face = cv2.resize(
            frame[y : y + side, x : x + side],
            (size, size),
            interpolation=cv2.INTER_AREA if size < side else cv2.INTER_LINEAR,
        )
        found.append((cv2.cvtColor(face, cv2.COLOR_BGR2RGB), frame, (x, y, side, side)))
    capture.release()
    return found


def _naive_box(frame: NDArray[np.uint8], settings: FaceSettings) -> tuple[int, int, int]:
    height, width = frame.shape[:2]
    scale = min(1.0, settings.detect_side / max(height, width))
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smallest = max(24, min(grey.shape) // 8)
    boxes = _cascade().detectMultiScale(
        cv2.equalizeHist(grey), scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
    )
    if not len(boxes):
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side
    x, y, w, h = max(
        np.asarray(boxes).tolist(), key=lambda box: (box[2] * box[3], -box[1], -box[0])
    )
    side = min(round(max(w, h) * (1 + 2 * settings.margin) / scale), height, width)
    left, top = round((x + w / 2) / scale - side / 2), round((y + h / 2) / scale - side / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


@functools.cache
def _cascade() -> Any:
    file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
    return cv2.CascadeClassifier(str(file))


def films(demo: Path, folder: Path) -> Path:
    """The demo corpus's faces as a published corpus has them, by emotion: <emotion>/<name>.mp4."""
    import av

    rows = read(Source("demo", demo, "visual")).rows
    for row in rows[:: max(1, len(rows) // FILMS)][:FILMS]:
        file = folder / row.emotion / f"{row.speaker}-{row.path.stem}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        capture = cv2.VideoCapture(str(row.path))
        with av.open(str(file), "w") as out:
            stream = out.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
            while (got := capture.read())[0]:
                image = np.full((480, 640, 3), got[1][0, 0], np.uint8)
                image[:, 80:560] = cv2.resize(got[1], (480, 480), interpolation=cv2.INTER_CUBIC)
                for _ in range(2):  # twelve pictures a second, near enough
                    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
                    out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        capture.release()
    return folder


def speech(demo: Path, folder: Path) -> Path:
    """The demo corpus's speech as often as makes UTTERANCES, by emotion: <emotion>/<name>.wav."""
    rows = read(Source("demo", demo, "acoustic")).rows
    for number in range(UTTERANCES):
        copy, row = number // len(rows), rows[number % len(rows)]
        file = folder / row.emotion / f"{row.speaker}-{row.path.stem}-{copy}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(row.path, file)
    return folder


def compare(
    source: Source, paths: Sequence[Path], work: Path, rounds: int
) -> tuple[Turns, dict[str, Any]]:
    """Seconds of both for all files, and how far their images are apart."""
    settings = SpectrogramSettings() if source.modality == "acoustic" else FaceSettings()
    naive, last = Naive(settings), list[Any]()
    naive(paths[0])  # imports, and librosa's just-in-time compiler

    def ours() -> None:
        root = work / "stores"
        shutil.rmtree(root, ignore_errors=True)
        last[:] = [prepare(source, settings, root)]

    turns = by_turns(
        {"ours": ours, "naive": lambda: [naive(path) for path in paths]}, rounds, warm=0
    )
    apart = _apart_speech if source.modality == "acoustic" else _apart_faces
    return turns, apart(source, paths, last[0], settings)


def _apart_speech(
    source: Source, paths: Sequence[Path], store: Store, settings: Any
) -> dict[str, Any]:
    largest, unlike, pixels = 0, 0, 0
    for path in paths:
        index = store.files.index(path.relative_to(source.path).as_posix())
        mine, other = store.images[index].astype(int), naive_speech(path, settings)[0].astype(int)
        largest = max(largest, int(abs(mine - other).max()))
        unlike, pixels = unlike + int((mine != other).sum()), pixels + mine.size
    return {"grey_levels": largest, "unlike": unlike / pixels}


def _apart_faces(
    source: Source, paths: Sequence[Path], store: Store, settings: Any
) -> dict[str, Any]:
    from fdan.media.faces import _largest_face

    frames = equal = unlike = 0
    overlap = []
    for path in paths[:COMPARED]:
        first = store.files.index(path.relative_to(source.path).as_posix())
        mine = read_frames(path, settings.frames)
        theirs = naive_faces(path, settings)
        frames += len(mine)
        for at, (frame, (face, other, box)) in enumerate(zip(mine, theirs, strict=False)):
            same = np.array_equal(frame, other)
            equal += same
            unlike += same and not np.array_equal(store.images[first + at], face)
            found = _largest_face(frame, settings)
            if found is not None:
                left, top, side = found
                overlap.append(_overlap((left, top, side, side), box))
    return {
        "frames": frames,
        "equal": equal,
        "unlike_faces": unlike,
        "found": len(overlap),
        "overlap": float(np.median(overlap)) if overlap else 0.0,
    }


def _overlap(one: Box, other: Box) -> float:
    """Share of the smaller box that lies in the larger one."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height) / min(one[2] * one[3], other[2] * other[3])


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    described = machine("librosa", "opencv-python", "numpy", "av", "soundfile")
    print(heading(described), flush=True)
    reached, found = True, dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="fdan-preparing-") as name:
        work = Path(name)
        demo = generate(work / "demo", speakers=options.speakers, takes=TAKES, uneven=False)
        sources = {
            "speech, demo": Source("demo", demo, "acoustic"),
            "speech, many": Source("folders", speech(demo, work / "speech"), "acoustic"),
            "video, demo": Source("demo", demo, "visual"),
            "video, films": Source("folders", films(demo, work / "films"), "visual"),
        }
        if options.speech:
            sources["speech, yours"] = Source("folders", options.speech.resolve(), "acoustic")
        if options.ravdess:
            sources["speech, RAVDESS"] = Source("ravdess", options.ravdess.resolve(), "acoustic")
        if options.video:
            sources["video, yours"] = Source("folders", options.video.resolve(), "visual")
        for title, source in sources.items():
            paths = [row.path for row in read(source).rows]
            turns, apart = compare(source, paths, work, options.rounds)
            faster, ms = turns.faster("ours", "naive"), turns.ms()
            goal = GOAL if source.modality == "visual" else 0.0
            print(
                f"{title}: {len(paths)} files; ours {ms['ours'] / 1000:.2f} s on"
                f" {cpu_count()} cores, naive {ms['naive'] / 1000:.2f} s:"
                f" {faster:.2f} times as fast;"
                f" {f'goal {goal:g}' if goal else 'no goal'}\n"
                f"  {_told(apart)}",
                flush=True,
            )
            reached &= faster >= goal and apart.get("grey_levels", 0) <= GREY_GOAL
            reached &= not apart.get("unlike_faces", 0)
            found[title] = {"files": len(paths), "faster": faster, "ms": ms, "apart": apart}
    write(options.json, {"machine": described, "corpora": found})
    return 0 if reached else 1


def _told(apart: dict[str, Any]) -> str:
    if "grey_levels" in apart:
        return (
            f"images differ by {apart['grey_levels']} grey level(s) at most,"
            f" {100 * apart['unlike']:.3f} % of pixels at all"
        )
    return (
        f"of {apart['frames']} frames {apart['equal']} equal to the last bit; of their face images"
        f" {apart['unlike_faces']} not; a face was found in {apart['found']}, the smaller box lies"
        f" in the larger to {100 * apart['overlap']:.0f} %"
    )


def _parser() -> Any:
    made = parser("preparing", ABOUT, rounds=3)
    made.add_argument(
        "--speakers",
        type=count,
        default=SPEAKERS,
        metavar="INT",
        help=f"of the demo corpus, 21 utterances each (default: {SPEAKERS})",
    )
    for kind in ("speech", "video"):
        made.add_argument(
            f"--{kind}", type=Path, metavar="FOLDER", help=f"{kind} of your own, too: <emotion>/*"
        )
    made.add_argument("--ravdess", type=Path, metavar="FOLDER", help="RAVDESS's speech, too")
    return made


if __name__ == "__main__":
    sys.exit(main())
