"""The demo corpus: real files, the same bytes each time, complete or absent, worth learning."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fdan.corpora import parse_source, read
from fdan.corpora.demo import CODES, BackgroundDemo, DemoSettings, generate, speaker_name
from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, DataError

Array = npt.NDArray[np.float64]
SPEAKERS, TAKES = 6, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "demo"
    return generate(folder, speakers=SPEAKERS, takes=TAKES, uneven=False, workers=2)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def sounds(corpus: Path) -> list[tuple[str, str, Array]]:
    """(speaker, emotion, samples in -1..1) of every WAV file."""
    emotions = {code: emotion for emotion, code in CODES.items()}
    found = []
    for path in sorted((corpus / "AudioData").rglob("*.wav")):
        with wave.open(str(path)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        found.append((path.parent.name, emotions[path.stem[:-2]], samples))
    return found


def films(corpus: Path) -> list[tuple[str, str, list[npt.NDArray[np.uint8]]]]:
    """(speaker, emotion, frames) of every AVI file."""
    emotions = {code: emotion for emotion, code in CODES.items()}
    found = []
    for path in sorted((corpus / "VisualData").rglob("*.avi")):
        video = cv2.VideoCapture(str(path))
        assert video.get(cv2.CAP_PROP_FPS) == 8
        frames = []
        while (frame := video.read()[1]) is not None:
            frames.append(frame)
        found.append((path.parent.name, emotions[path.stem[:-2]], frames))
    return found


def test_layout_is_savees(corpus: Path) -> None:
    expected = {
        f"{folder}/{speaker_name(speaker)}/{code}{take:02d}{suffix}"
        for folder, suffix in (("AudioData", ".wav"), ("VisualData", ".avi"))
        for speaker in range(SPEAKERS)
        for code in ("a", "d", "f", "h", "n", "sa", "su")
        for take in range(1, TAKES + 1)
    }
    assert set(contents(corpus)) == {"demo.json", *expected}
    assert len({speaker_name(index) for index in range(676)}) == 676
    for modality in ("acoustic", "visual"):
        listing = read(parse_source(f"demo:{corpus}", modality))
        assert not listing.problems
        counts = {name: sum(row.emotion == name for row in listing.rows) for name in EMOTIONS}
        assert counts == dict.fromkeys(EMOTIONS, SPEAKERS * TAKES)


def test_media_are_real(corpus: Path) -> None:
    for _, _, samples in sounds(corpus):
        assert 0.5 < len(samples) / 16000 < 5
        assert 0.01 < np.abs(samples).max() <= 1
        assert np.mean(np.abs(samples) > 0.99) < 0.001, "clipped"
    for (_, _, samples), (_, _, frames) in zip(sounds(corpus), films(corpus), strict=True):
        assert frames[0].shape == (128, 128, 3)
        assert abs(len(frames) / 8 - len(samples) / 16000) < 0.1, "sound and picture differ"


def test_bytes_depend_on_the_settings_alone(corpus: Path, tmp_path: Path) -> None:
    """Neither on the processes nor on what else is in the corpus; another seed is another."""
    whole = contents(corpus)
    few = contents(generate(tmp_path / "few", speakers=2, takes=1, uneven=False, workers=1))
    del few["demo.json"]
    assert len(few) == 2 * 2 * 7
    assert all(whole[name] == content for name, content in few.items())
    other = contents(generate(tmp_path / "other", speakers=1, takes=1, uneven=False, seed=1))
    assert all(whole[name] != content for name, content in other.items())


def test_second_call_returns_at_once(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    calls: list[tuple[int, int]] = []
    start = time.perf_counter()
    again = generate(
        corpus, speakers=SPEAKERS, takes=TAKES, uneven=False, progress=lambda *at: calls.append(at)
    )
    assert time.perf_counter() - start < 0.5
    assert again == corpus and not calls
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_progress_counts_utterances(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate(
        tmp_path / "demo", speakers=1, takes=2, uneven=False, progress=lambda *at: calls.append(at)
    )
    assert calls == [(done, 14) for done in range(0, 15, 2)]


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 5}, "seed 0"), ({"takes": 3}, "takes 2"), ({}, "speakers 6")]
)
def test_other_settings_are_refused(corpus: Path, change: dict[str, int], named: str) -> None:
    settings = {"speakers": SPEAKERS, "takes": TAKES, **change} if change else {}
    with pytest.raises(DataError, match=f"{named}.*choose another folder"):
        generate(corpus, **settings)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds other files"):
        generate(mine, speakers=1, takes=1, uneven=False)
    with pytest.raises(DataError, match="is a file"):
        generate(mine / "thesis.txt", speakers=1, takes=1, uneven=False)
    with pytest.raises(DataError, match="cannot be written"):
        generate(mine / "thesis.txt" / "demo", speakers=1, takes=1, uneven=False)
    (mine / "thesis.txt").rename(mine / "demo.json")
    with pytest.raises(DataError, match="unreadable"):
        generate(mine, speakers=1, takes=1, uneven=False)
    assert contents(mine) == {"demo.json": b"years of work"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    folder = generate(tmp_path / "demo", speakers=1, takes=1, uneven=False)
    assert json.loads((folder / "demo.json").read_text())["speakers"] == 1


@pytest.mark.parametrize("setting", [{"speakers": 0}, {"speakers": 677}, {"takes": 100}])
def test_settings_out_of_range(tmp_path: Path, setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        generate(tmp_path / "demo", **setting)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_generation_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "demo", progress=interrupt, workers=workers)
    assert not list(tmp_path.iterdir())


AHEAD = """
import signal, sys
from pathlib import Path
from fdan.corpora.demo import BackgroundDemo

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
with BackgroundDemo(Path(sys.argv[1]), workers=2) as ahead:
    if sys.argv[2] == "refused":
        print("refused", flush=True)
        sys.stdin.readline()
        sys.exit(2)
    ahead.wait(lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("how", ["Ctrl-C", "refused"])
def test_one_that_is_left_on_the_way_leaves_nothing(tmp_path: Path, how: str) -> None:
    """No file, no folder, no process, and no word of those that were writing."""
    folder = tmp_path / "deep" / "runs" / "data" / "demo"
    command = [sys.executable, "-c", AHEAD, str(folder), how]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        while not list(tmp_path.glob("deep/runs/data/.demo.partial-*/*/*/*")):
            assert process.poll() is None
            time.sleep(0.01)
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        _, said = process.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):  # of its session
            os.killpg(process.pid, 0)
    assert not list(tmp_path.iterdir())
    if how == "refused":
        assert (process.returncode, said) == (2, "")
    else:
        assert said.rstrip().endswith("KeyboardInterrupt") and "Exception ignored" not in said


def test_what_keeps_it_from_being_written_is_told_to_whoever_waits(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("years of work")
    with (
        BackgroundDemo(tmp_path / "demo") as ahead,
        pytest.raises(DataError, match="holds other files"),
    ):
        ahead.wait(lambda done, total: None)


def test_killed_generation_is_not_taken_for_complete(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    program = (
        "import sys; from pathlib import Path; from fdan.corpora.demo import generate;"
        "generate(Path(sys.argv[1]), progress=lambda done, total: print(done, flush=True))"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line):
                break
        os.kill(process.pid, signal.SIGKILL)
    assert not folder.exists()
    (left,) = tmp_path.iterdir()
    os.utime(left, (0.0, 0.0))
    fresh = tmp_path / ".demo.partial-x"  # somebody else's, perhaps on another machine
    fresh.mkdir()
    generate(folder, speakers=1, takes=1, uneven=False)
    assert len(contents(folder)) == 15
    assert {*tmp_path.iterdir()} == {folder, fresh}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds its processes in /proc")
def test_a_lost_process_is_reported(tmp_path: Path) -> None:
    def kill_one(done: int, total: int) -> None:
        for children in Path("/proc/self/task").glob("*/children") if done == 6 else ():
            for child in children.read_text().split():
                if str(tmp_path).encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
                    return

    with pytest.raises(DataError, match="process ended after"):
        generate(tmp_path / "demo", speakers=2, progress=kill_one, workers=2)
    assert not list(tmp_path.iterdir())


def test_two_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(generate, tmp_path / "demo", speakers=1, takes=1, uneven=False)
            for _ in range(2)
        ]
        assert [call.result() for call in calls] == [tmp_path / "demo"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_defaults_are_the_settings() -> None:
    defaults = {"speakers": 16, "takes": 6, "seed": 0, "uneven": True}
    assert DemoSettings().as_dict() == defaults


def test_some_emotions_are_heard_far_more_rarely_than_seen(tmp_path: Path) -> None:
    folder = generate(tmp_path / "demo", speakers=1, takes=2, workers=1)
    heard = [emotion for _, emotion, _ in sounds(folder)]
    seen = [emotion for _, emotion, _ in films(folder)]
    counts = {"anger": 2, "disgust": 1, "fear": 1, "happiness": 3, "neutral": 8, "sadness": 1}
    assert {e: heard.count(e) for e in EMOTIONS} == {**counts, "surprise": 1}
    assert {e: seen.count(e) for e in EMOTIONS} == dict.fromkeys(EMOTIONS, 2)
    for modality, count in (("acoustic", 17), ("visual", 14)):
        listing = read(parse_source(f"demo:{folder}", modality))
        assert len(listing.rows) == count
        assert not (listing.problems or listing.skipped)
    shares = {e: DemoSettings().sounds(e) for e in EMOTIONS}
    assert shares["neutral"] == 24 and min(shares.values()) == 3


def pitches(samples: Array) -> Array:
    """Pitch of the voiced frames in semitones above 1 Hz, by the autocorrelation of spectra that
    are compressed, so that a strong formant does not pass for the pitch."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::400]
    frames = frames[np.square(frames).mean(axis=1) > 0.2 * np.square(samples).mean()]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(1024), 2048))
    magnitude[:, 2500 * 2048 // 16000 :] = 0
    lags = np.fft.irfft(np.sqrt(magnitude))[:, 16000 // 450 : 16000 // 70]
    return 12 * np.log2(16000 / (16000 // 450 + lags.argmax(axis=1)))


def statistics(samples: Array) -> list[float]:
    """Level, brightness, length, pauses; pitch: level, spread, rise to the end; rise of level and
    brightness from the first half to the second."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::128]
    power = np.square(frames).mean(axis=1)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(512), axis=1)) ** 2
    half = len(power) // 2
    bright = [
        float(10 * np.log10(part[:, 40:].sum() / part[:, 3:20].sum()))
        for part in (spectrum[:half], spectrum[half:])
    ]
    pitch = pitches(samples)
    return [
        float(10 * np.log10(power.max())),
        float(10 * np.log10(spectrum[:, 40:].sum() / spectrum[:, 3:20].sum())),
        float(np.log(len(samples))),
        float(np.mean(power < 0.05 * power.max())),
        float(np.median(pitch)),
        float(pitch.std()),
        float(np.median(pitch[-len(pitch) // 4 :]) - np.median(pitch)),
        float(10 * np.log10(power[half:].max() / power[:half].max())),
        bright[1] - bright[0],
    ]


def uar_of_unseen_speakers(features: Array, labels: Array, speakers: list[str]) -> float:
    """Each speaker recognised by a ridge regression on the others."""
    names, recalls = np.array(speakers), []
    for name in sorted(set(speakers)):
        test, train = names == name, names != name
        mean, spread = features[train].mean(axis=0), features[train].std(axis=0) + 1e-9
        known, unseen = (features[train] - mean) / spread, (features[test] - mean) / spread
        kernel = known @ known.T / known.shape[1]
        target = np.eye(7)[labels[train]] - 1 / 7
        weights = np.linalg.solve(kernel + 0.1 * np.eye(len(kernel)), target)
        guess = (unseen @ known.T / known.shape[1] @ weights).argmax(axis=1)
        recalls += [np.mean(guess[labels[test] == k] == k) for k in range(7)]
    return float(np.mean(recalls))


def test_voices_carry_the_emotion_across_speakers(corpus: Path) -> None:
    heard = sounds(corpus)
    features = np.array([statistics(samples) for _, _, samples in heard])
    labels = np.array([EMOTIONS.index(emotion) for _, emotion, _ in heard])
    speakers = [speaker for speaker, _, _ in heard]
    assert uar_of_unseen_speakers(features, labels, speakers) > 0.4

    mean = {e: features[labels == EMOTIONS.index(e)].mean(axis=0) for e in EMOTIONS}
    assert mean["anger"][0] > mean["sadness"][0] + 2, "dB"
    assert mean["sadness"][2] > mean["fear"][2], "length"
    assert mean["fear"][7] > 3 > -3 > mean["neutral"][7], "dB from half to half"
    assert mean["disgust"][8] > mean["happiness"][8] + 3, "dB from half to half"


def test_faces_are_found_and_carry_the_emotion_across_speakers(corpus: Path) -> None:
    cascade = cv2.CascadeClassifier(
        str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml")
    )
    found, crops, labels, speakers = [], [], [], []
    for speaker, emotion, frames in films(corpus):
        for frame in (frames[len(frames) // 2], frames[-1]):
            grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
            faces = cascade.detectMultiScale(grey, 1.1, 5, minSize=(40, 40))
            found.append(len(faces) > 0)
            if not len(faces):
                continue
            x, y, width, height = max(faces, key=lambda face: face[2])
            crop = cv2.resize(grey[y : y + height, x : x + width], (24, 24), None, 0, 0, 3)
            crops.append(crop.ravel().astype(float))
            labels.append(EMOTIONS.index(emotion))
            speakers.append(speaker)
    assert np.mean(found) > 0.8
    assert uar_of_unseen_speakers(np.array(crops), np.array(labels), speakers) > 0.4
