"""Stores from real files, through real processes that are killed, stopped and crashed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from fdan.corpora import Source, parse_source
from fdan.data.prepare import prepare
from fdan.data.store import PrepareProgress, Store, open_store
from fdan.errors import DataError
from fdan.media.faces import FaceSettings
from fdan.media.pixels import Pixels
from fdan.media.pool import DecoderPool
from fdan.media.spectrogram import SpectrogramSettings

REPO = Path(__file__).resolve().parents[3]
SPEECH = SpectrogramSettings(seconds=0.2, spectrogram_size=32)
FACES = FaceSettings(face_size=16)
WORDS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")

# Loaded by each worker before anything else: what a file's name says happens when it is opened,
# and each opening is written down.
SITECUSTOMIZE = """
import os, sys, time
def hook(event, arguments):
    if event != "open" or not str(arguments[0]).endswith(".png"):
        return
    name = os.path.basename(arguments[0])
    if "FDAN_TEST_LOG" in os.environ:
        log = os.open(os.environ["FDAN_TEST_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, (name + "\\n").encode())
        os.close(log)
    if "crash" in name:
        os.abort()
    if "hang" in name:
        with open(os.environ["FDAN_TEST_LOG"] + ".pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)
    if "slow" in name:
        time.sleep(0.02)
if "fdan.media.worker" in " ".join(sys.orig_argv):
    sys.addaudithook(hook)
"""


def faces(root: Path, count: int, name: str = "face") -> Source:
    rng = np.random.default_rng(0)
    for number in range(count):
        file = root / WORDS[number % 7] / f"{name}{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))
    return Source("folders", root, "visual")


def speech(root: Path) -> Source:
    rng = np.random.default_rng(0)
    root.mkdir()
    for speaker in ("AA", "BB", "CC"):
        for code in ("a", "d", "f", "h", "n", "sa", "su"):
            for number in (1, 2):
                sound = rng.normal(0, 0.1, 4000).astype(np.float32)
                soundfile.write(root / f"{speaker}_{code}{number:02d}.wav", sound, 16000)
    return Source("savee", root, "acoustic")


def left_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers act on names; returns the log of openings."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    log = tmp_path / "opened.log"
    monkeypatch.setenv("FDAN_TEST_LOG", str(log))
    return log


def test_a_store_of_speech(tmp_path: Path) -> None:
    source = speech(tmp_path / "corpus")
    told: list[PrepareProgress] = []
    store = prepare(source, SPEECH, tmp_path / "stores", workers=2, progress=told.append)
    assert store.folder.name == f"savee-acoustic-{store.fingerprint[:12]}"
    assert isinstance(store.images, np.memmap) and not store.images.flags.writeable
    assert store.images.shape == (42, 32, 32, 1) and store.images.dtype == np.uint8
    assert store.speakers[:14] == ["AA"] * 14 and store.utterances[0] == "AA_a01"
    assert store.emotions[:14].tolist() == [e for e in range(7) for _ in (1, 2)]
    assert store.emotions.dtype == np.int64
    assert set(store.parts) == {None} and store.files[0] == "AA_a01.wav"
    assert store.unreadable == [] and store.counts["images"] == 42
    assert store.settings["mels"] == 128 and store.settings["version"] == 1
    assert told[-1] == PrepareProgress(str(source), "decoding", 42, 42)
    assert {step.stage for step in told} == {"hashing", "decoding"}
    # Each image is the one of its own file.
    from fdan.media.pixels import read_pixels

    for at in (0, 17, 41):
        alone = read_pixels(source.path / store.files[at], SPEECH)
        np.testing.assert_array_equal(store.images[at], alone.images[0])


def test_found_again_and_named_by_content(tmp_path: Path) -> None:
    source = speech(tmp_path / "corpus")
    root = tmp_path / "stores"
    first = prepare(source, SPEECH, root, workers=1)
    made = (first.folder / "images.npy").stat().st_mtime_ns
    again = prepare(source, SPEECH, root, workers=1)
    assert again.folder == first.folder
    assert (again.folder / "images.npy").stat().st_mtime_ns == made
    # The same corpus elsewhere is the same store; other settings or content are not.
    shutil.copytree(source.path, tmp_path / "moved")
    moved = prepare(Source("savee", tmp_path / "moved", "acoustic"), SPEECH, root, workers=1)
    assert moved.folder == first.folder
    other = SpectrogramSettings(seconds=0.2, spectrogram_size=32, hop=128)
    assert prepare(source, other, root, workers=1).folder != first.folder
    sound = np.random.default_rng(9).normal(0, 0.1, 4000)
    soundfile.write(source.path / "AA_a01.wav", sound, 16000)
    assert prepare(source, SPEECH, root, workers=1).fingerprint != first.fingerprint
    (source.path / "AA_a02.wav").rename(source.path / "AA_d03.wav")
    assert len({store.name for store in root.iterdir() if store.is_dir()}) == 3
    assert prepare(source, SPEECH, root, workers=1).fingerprint != first.fingerprint


def test_hashes_are_remembered(tmp_path: Path) -> None:
    from fdan.data.content_hash import ContentCache

    file = tmp_path / "a"
    file.write_bytes(b"one")
    os.utime(file, ns=(0, 10**18))
    cache = ContentCache(tmp_path / "contents.json")
    first = cache.hash([file], 1, lambda done: None)
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 10**18))  # same size, same time: believed unchanged
    known = ContentCache(tmp_path / "contents.json")
    assert known.hash([file], 1, lambda done: None) == first
    os.utime(file, ns=(0, 10**18 + 1))
    assert known.hash([file], 1, lambda done: None) != first
    # A file written just now may still change within its time stamp's grain.
    fresh = tmp_path / "b"
    fresh.write_bytes(b"one")
    known.hash([fresh], 1, lambda done: None)
    assert str(fresh) not in (tmp_path / "contents.json").read_text()


def test_unreadable_files_are_listed(tmp_path: Path) -> None:
    source = speech(tmp_path / "corpus")
    (source.path / "AA_a01.wav").write_bytes(b"")
    (source.path / "BB_h02.wav").write_bytes(b"RIFF but no more")
    soundfile.write(source.path / "CC_su01.wav", np.zeros(4000), 16000)
    os.mkfifo(source.path / "CC_su03.wav")
    (source.path / "notes.wav").write_bytes(b"")
    store = prepare(source, SPEECH, tmp_path / "stores", workers=2)
    assert len(store) == 39 and store.counts["unreadable"] == 4
    reasons = {entry["path"]: entry["reason"] for entry in store.unreadable}
    assert list(reasons) == ["AA_a01.wav", "BB_h02.wav", "CC_su01.wav", "CC_su03.wav"]
    assert "empty" in reasons["AA_a01.wav"] and "silent" in reasons["CC_su01.wav"]
    assert "cannot be decoded" in reasons["BB_h02.wav"]
    assert "regular" in reasons["CC_su03.wav"]
    assert not set(reasons) & set(store.files)
    assert [problem["path"] for problem in store.problems] == ["notes.wav"]


def test_nothing_readable_leaves_nothing(tmp_path: Path) -> None:
    source = speech(tmp_path / "corpus")
    for file in source.path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of its 42 files can be used \(for instance AA_a01"):
        prepare(source, SPEECH, tmp_path / "stores", workers=1)
    assert left_in(tmp_path / "stores") == set()
    for file in source.path.glob("*_a*.wav"):
        soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 4000), 16000)
    with pytest.raises(DataError, match="all readable files are of one emotion, anger"):
        prepare(source, SPEECH, tmp_path / "stores", workers=1)
    assert left_in(tmp_path / "stores") == set()


def test_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "stores").write_text("a file")
    with pytest.raises(DataError, match="cannot prepare savee") as error:
        prepare(speech(tmp_path / "corpus"), SPEECH, tmp_path / "stores")
    assert "\n" not in str(error.value)


def test_videos_give_several_images(tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    for code, count in (("a01", 30), ("h01", 2), ("n01", 1)):
        fourcc = cv2.VideoWriter_fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(root / f"AA_{code}.avi"), fourcc, 25, (48, 32))
        for index in range(count):
            writer.write(np.full((32, 48, 3), 5 * index, np.uint8))
        writer.release()
    store = prepare(Source("savee", root, "visual"), FACES, tmp_path / "stores", workers=1)
    assert store.utterances == ["AA_a01"] * 3 + ["AA_h01"] * 2 + ["AA_n01"]
    assert store.images.shape == (6, 16, 16, 3)
    np.testing.assert_allclose(store.images.mean(axis=(1, 2, 3)), [25, 75, 125, 0, 5, 0], atol=2)
    assert store.counts["no face, centre crop"] == 6


# --- processes that fail


def test_crashes_and_hangs_cost_one_file_each(tmp_path: Path, hooked: Path) -> None:
    source = faces(tmp_path / "corpus", 28)
    for name in ("sad/crash.png", "angry/hang.png"):
        shutil.copy(source.path / "sad/face005.png", source.path / name)
    store = prepare(source, FACES, tmp_path / "stores", workers=2, timeout_s=2)
    reasons = {entry["path"]: entry["reason"] for entry in store.unreadable}
    assert reasons == {
        "angry/hang.png": "took longer than 2 s to read",
        "sad/crash.png": "decoding it ended the process (signal 6)",
    }
    assert len(store) == 28
    opened = hooked.read_text().split()
    assert opened.count("hang.png") == 1 and opened.count("crash.png") == 2


def test_a_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    source = faces(tmp_path / "corpus", 4)
    paths = sorted(source.path.rglob("*.png"))
    with DecoderPool(FACES, 1, timeout_s=60) as pool:
        list(pool.read(paths))
        process = pool._processes[0]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        answers = list(pool.read(paths))
        assert all(isinstance(answer, Pixels) for answer in answers)
        process = pool._processes[0]._process
        assert process is not None
    assert process.poll() is not None  # none is left behind


RUN = """
import sys
from pathlib import Path
from fdan.corpora import Source
from fdan.media.faces import FaceSettings
from fdan.data.prepare import prepare
source, root = Source("folders", Path(sys.argv[1]), "visual"), Path(sys.argv[2])
print(prepare(source, FaceSettings(face_size=16), root, workers=1, timeout_s=1).folder)
"""


def start(source: Source, root: Path) -> subprocess.Popen[str]:
    environment = dict(os.environ)
    environment["PYTHONPATH"] = f"{REPO}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(source.path), str(root)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def kill_after(lines: int, source: Source, root: Path) -> Path:
    """Prepare in a process of its own, killed when that many files are done."""
    run = start(source, root)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = list(root.glob("*.partial/done.jsonl"))
        if done and done[0].read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.01)
    decoding = children(run.pid)
    run.kill()
    run.wait()
    while any(alive(pid) for pid in decoding):  # each ends with the file that it is at
        assert time.monotonic() < deadline + 10
        time.sleep(0.01)
    (partial,) = left_in(root)
    assert partial.endswith(".partial")  # nothing that looks like a store
    return root / partial


def test_goes_on_after_kills(tmp_path: Path, hooked: Path) -> None:
    source = faces(tmp_path / "corpus", 70, name="slow")
    (source.path / "angry" / "slow_bad.png").write_bytes(b"bad")
    root = tmp_path / "killed"
    partial = kill_after(16, source, root)
    with pytest.raises(DataError, match="not a prepared store"):
        open_store(partial)
    # As if the kill had come in the middle of a write.
    with (partial / "done.jsonl").open("ab") as file:
        file.write(b'{"images": 1, "rea')
    with (partial / "images.npy").open("ab") as file:
        file.write(b"torn")
    kill_after(32, source, root)
    # As if the machine had lost the last images that it had not written yet.
    size = (partial / "images.npy").stat().st_size
    with (partial / "images.npy").open("r+b") as file:
        file.truncate(size - 2 * 16 * 16 * 3 - 5)
    kill_after(40, source, root)
    done = (partial / "done.jsonl").read_bytes().count(b"\n")
    assert 40 <= done < 71
    hooked.unlink()
    store = prepare(source, FACES, root, workers=2)
    assert len(hooked.read_text().split()) == 71 - done
    whole = prepare(source, FACES, tmp_path / "whole", workers=2)
    for name in ("images.npy", "manifest.json"):
        assert (store.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert left_in(root) == {store.folder.name}


def test_two_at_once_make_it_once(tmp_path: Path, hooked: Path) -> None:
    source = faces(tmp_path / "corpus", 42, name="slow")
    runs = [start(source, tmp_path / "stores") for _ in range(2)]
    folders = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(folders) == 1 and len(open_store(Path(folders.pop()))) == 42
    assert len(hooked.read_text().split()) == 42


def test_interrupted_by_the_caller(tmp_path: Path, hooked: Path) -> None:
    source = faces(tmp_path / "corpus", 42)
    shutil.copy(source.path / "sad/face005.png", source.path / "fear/hang.png")

    def stop(progress: PrepareProgress) -> None:
        if progress.stage == "decoding":  # the first batch; the second hangs
            raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        prepare(source, FACES, tmp_path / "stores", workers=2, progress=stop)
    assert time.monotonic() - begun < 60
    assert all(name.endswith(".partial") for name in left_in(tmp_path / "stores"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_hanging_process_outlives_nobody_for_long(tmp_path: Path, hooked: Path) -> None:
    source = faces(tmp_path / "corpus", 14)
    shutil.copy(source.path / "sad/face005.png", source.path / "angry/hang.png")
    run = start(source, tmp_path / "stores")
    noted = hooked.with_name(hooked.name + ".pid")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (noted.exists() and noted.read_text()):
        time.sleep(0.01)
    run.kill()
    run.wait()
    orphan = int(noted.read_text())
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and alive(orphan):
        time.sleep(0.1)
    assert not alive(orphan)


def alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- opening


@pytest.fixture
def ready(tmp_path: Path) -> Store:
    return prepare(faces(tmp_path / "corpus", 14), FACES, tmp_path / "stores", workers=1)


def test_opened_as_it_is(ready: Store, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    shutil.copytree(ready.folder, carried)
    source = parse_source(f"store:{carried}", "visual")
    store = prepare(source, None, tmp_path / "nothing")
    assert store.folder == carried and store.fingerprint == ready.fingerprint
    np.testing.assert_array_equal(store.images, ready.images)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(DataError, match="holds visual samples and is given as acoustic source"):
        prepare(parse_source(f"store:{carried}", "acoustic"), None, tmp_path)


def test_pickling_passes_the_folder_on(ready: Store) -> None:
    data = pickle.dumps(ready)
    assert len(data) < 1000
    assert pickle.loads(data).fingerprint == ready.fingerprint


@pytest.mark.parametrize("harm", ["short", "long", "gone", "manifest", "labels", "shape", "format"])
def test_damage_is_noticed(harm: str, ready: Store) -> None:
    images, manifest = ready.folder / "images.npy", ready.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    if harm == "short":
        images.write_bytes(images.read_bytes()[:-1])
    elif harm == "long":
        images.write_bytes(images.read_bytes() + b"x")
    elif harm == "gone":
        images.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif harm == "labels":
        content["samples"]["speakers"].pop()
        manifest.write_text(json.dumps(content))
    elif harm == "shape":
        manifest.write_text(json.dumps({**content, "shape": [14, 8, 32, 3]}))
    else:
        manifest.write_text(json.dumps({**content, "format": 0}))
    with pytest.raises(DataError, match="prepare again") as error:
        open_store(ready.folder)
    assert str(ready.folder) in str(error.value) and "\n" not in str(error.value)


def test_needs_no_media_library(ready: Store) -> None:
    """A machine without OpenCV, librosa and the like trains from a store carried to it."""
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"cv2", "librosa", "av", "soundfile", "soxr", "numba", "scipy"}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
import fdan.data.split, fdan.data.task, fdan.media.pixels
from fdan.corpora import parse_source
from fdan.data.prepare import prepare
store = prepare(parse_source("store:" + sys.argv[1], "visual"), None, Path("/nonexistent"))
assert store.images[:].sum() > 0
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    subprocess.run(
        [sys.executable, "-c", code, str(ready.folder)], check=True, env=environment, timeout=60
    )
