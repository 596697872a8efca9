"""What a user gets wrong ends in one clear line and exit code 2, with nothing half-written.

Where one file of many is bad, it is listed and passed over.
"""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.commands import corpora
from tests.commands.conftest import Run

FDAN = ("-m", "fdan")
SEARCH = ("search/run.py",)
SMALL = ("--spectrogram-size", "32", "--face-size", "32", "--workers", "1")
SMALL += ("--backbone", "resnet18")
SMALL += ("--folds", "none")
RANDOM = ("--weights", "none", "--tuning", "frozen", "--epochs", "1")


def refused(run: Run, *arguments: str | Path, **environment: str) -> str:
    """Run it, check that it is refused properly, and give the line."""
    done = run(*arguments, **environment)
    # On a busy machine, a corpus may be prepared so slowly that its progress is shown. What is odd
    # about a corpus is told, whatever is refused afterwards.
    odd = (": decoding", " sample of happiness: ")
    lines = [line for line in done.stderr.splitlines() if not any(text in line for text in odd)]
    assert done.returncode == 2, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr[-2000:]
    return lines[0]


def half_written(folder: Path) -> list[str]:
    """What a refused command left behind, apart from what stays true whatever is done next:
    content hashes and locks."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.name != "contents.json" and not path.name.endswith(".lock")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*SEARCH, "--trails", "5"], "'--trails': did you mean '--trials'?"),
        ([*SEARCH, "--sampler", "tpo"], "did you mean 'tpe'?"),
        ([*SEARCH, "--pruner", "hyperbnd"], "did you mean 'hyperband'?"),
        ([*SEARCH, "--space", "defualt"], "did you mean 'default'?"),
        ([*SEARCH, "--trials", "0"], "trials = 0: must be at least 1"),
        ([*SEARCH, "--time-budget", "soon"], "expected a time such as 90s, 30m or 2h"),
        ([*SEARCH, "--sampler", "grid"], "continuous"),
        ([*SEARCH, "--study", "mlartifacts"], "that name in --runs has another use"),
        ([*SEARCH, "--weights", "http://x/w.pth"], "is an address; download it"),
        ([*SEARCH, "--weights", "/"], "is a folder; name a state dict's file"),
        ([*SEARCH, "--task", "savve:/data"], "did you mean 'savee'?"),
        ([*SEARCH, "--task", "/data/SAVEE"], "expected CORPUS:FOLDER"),
        ([*SEARCH, "--task", "savee:/nowhere"], "/nowhere: there is no such folder"),
        ([*SEARCH, "--acoustic", "ravdess:/data"], "give --visual CORPUS:PATH too"),
        ([*SEARCH, "--device", "cuda"], "cuda"),
        ([*SEARCH, "--gpus-per-trial", "1"], "cuda"),
        ([*FDAN, "train", "--out", "x", "--lr", "0"], "lr = 0.0: must be greater than 0"),
        ([*FDAN, "train", "--out", "x", "--layrs", "2"], "did you mean '--layers'?"),
        ([*FDAN, "train", "--out", "x", "--backbone", "resnet"], "did you mean 'resnet"),
        ([*FDAN, "train", "--out", "x", "--device", "cuda"], "cuda"),
        ([*FDAN, "train", "--out", "x", "--heads", "3"], "heads = 3 does not divide width = 256"),
        ([*FDAN, "predikt"], "did you mean 'predict'?"),
        ([*FDAN, "evaluate", "/nowhere"], "/nowhere"),
        ([*FDAN, "predict", "/nowhere", "a.wav"], "/nowhere"),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, list) else "",
)
def test_options(run: Run, tmp_path: Path, arguments: list[str], words: str) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has the GPU that the test asks for in vain")
    assert words in refused(run, *arguments)
    assert half_written(tmp_path) == []


def test_unknown_key_in_a_space_file(run: Run, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text('[dimensions.alhpa]\ntype = "float"\nlow = 0.1\nhigh = 1.0\n')
    line = refused(run, *SEARCH, "--space", space)
    assert "did you mean 'alpha'?" in line and str(space) in line
    space.write_text('[dimensions.alpha]\ntype = "float"\nlow = 0.1\nhihg = 1.0\n')
    assert "did you mean 'high'?" in refused(run, *SEARCH, "--space", space)
    space.write_text('[dimensions.momentum]\ntype = "float"\nlow = 0.5\nhigh = 1.5\n')
    assert "momentum = 1.5: must be at most 0.999" in refused(run, *SEARCH, "--space", space)
    space.write_text('[dimensions.context]\ntype = "categorical"\nchoices = ["bank", "nne"]\n')
    assert "did you mean 'none'?" in refused(run, *SEARCH, "--space", space)
    space.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refused(run, *SEARCH, "--space", space)


def test_empty_corpus(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = refused(run, *FDAN, "prepare", "--task", f"savee:{tmp_path / 'empty'}")
    assert "no acoustic file of this corpus" in line
    assert half_written(tmp_path) == []


def keep(corpus: Path, folder: Path, wanted: Callable[[Path], bool]) -> Path:
    """A copy of the corpus with only the utterances that are `wanted`."""
    for path in sorted(corpus.rglob("*.*")):
        if path.suffix in (".wav", ".avi") and wanted(path):
            target = folder / path.relative_to(corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


def test_one_class(run: Run, corpus: Path, tmp_path: Path) -> None:
    only = keep(corpus, tmp_path / "c", lambda path: path.stem.startswith("h"))
    line = refused(run, *FDAN, "prepare", "--task", f"savee:{only}")
    assert "all 4 files are of one emotion, happiness" in line
    assert half_written(tmp_path / "runs") == []


def test_one_speaker(run: Run, corpus: Path, tmp_path: Path) -> None:
    name = sorted(path.name for path in (corpus / "AudioData").iterdir())[0]
    only = keep(corpus, tmp_path / "c", lambda path: path.parent.name == name)
    line = refused(run, *FDAN, "train", "--out", "x", "--task", f"savee:{only}", *SMALL, *RANDOM)
    assert "speaker" in line and "paper" in line, line
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_divided_is_prepared(run: Run, corpus: Path, tmp_path: Path) -> None:
    name = sorted(path.name for path in (corpus / "AudioData").iterdir())[0]
    only = keep(corpus, tmp_path / "c", lambda path: path.parent.name == name)
    command = (*FDAN, "prepare", "--task", f"savee:{only}", *SMALL[:6])
    assert "speaker" in refused(run, *command)
    shown, stores = run(*command).stdout, list((tmp_path / "runs" / "stores").glob("savee-*"))
    assert len(stores) == 2 and all(store.name in shown for store in stores), shown


def silence(path: Path) -> None:
    with wave.open(str(path), "wb") as clip:
        clip.setnchannels(1)
        clip.setsampwidth(2)
        clip.setframerate(16000)
        clip.writeframes(bytes(32000))


def faceless(path: Path) -> None:
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (128, 128))
    for _ in range(8):
        film.write(np.full((128, 128, 3), 90, np.uint8))
    film.release()


def test_bad_files_among_good_ones(run: Run, corpus: Path, tmp_path: Path) -> None:
    """Truncated, empty and silent files are listed with the reason; a video without a face is
    counted; the rest is prepared."""
    mixed = keep(corpus, tmp_path / "c", lambda path: True)
    clips = sorted((mixed / "AudioData").rglob("*.wav"))
    films = sorted((mixed / "VisualData").rglob("*.avi"))
    clips[0].write_bytes(clips[0].read_bytes()[:30])
    clips[1].write_bytes(b"")
    silence(clips[2])
    films[0].write_bytes(films[0].read_bytes()[:200])
    films[1].write_bytes(b"")
    faceless(films[2])
    done = run(*FDAN, "prepare", "--task", f"savee:{mixed}", *SMALL[:6])
    assert done.returncode == 0, done.stderr
    for bad in (*clips[:3], *films[:2]):
        named = f"{bad.parent.name}/{bad.name}"
        assert named in done.stdout, f"{named} is not listed in: {done.stdout}"
    assert "empty (0 bytes)" in done.stdout
    assert "silen" in done.stdout or "no sound" in done.stdout
    assert "centre" in done.stdout, "a video without a face is counted"
    assert "Traceback" not in done.stderr


def test_all_files_bad(run: Run, corpus: Path, tmp_path: Path) -> None:
    broken = keep(corpus, tmp_path / "c", lambda path: True)
    for clip in broken.rglob("*.wav"):
        clip.write_bytes(b"RIFF")
    line = refused(run, *FDAN, "prepare", "--task", f"savee:{broken}", *SMALL[:6])
    assert "savee" in line
    assert half_written(tmp_path / "runs") == []


def test_csv_rows_without_a_file(run: Run, corpus: Path, tmp_path: Path) -> None:
    """MELD's tables list clips that are not there: listed, and passed over."""
    root = corpora.meld(corpus, tmp_path / "MELD", missing=1)
    done = run(
        *FDAN, "prepare", "--visual", f"meld:{root}", "--acoustic", f"demo:{corpus}", *SMALL[:6]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dia0_utt0 has no file") == 3, done.stdout


@pytest.mark.usefixtures("with_prepared")
def test_weights_that_do_not_fit(run: Run, corpus: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pth"
    torch.save({"conv1.weight": torch.zeros(3, 3)}, wrong)
    common = ["train", "--out", "x", "--task", f"demo:{corpus}", *SMALL, "--tuning", "frozen"]
    line = refused(run, *FDAN, *common, "--weights", wrong)
    assert "wrong.pth" in line and ("conv1.weight" in line or "missing" in line), line
    wrong.write_bytes(b"not weights")
    assert "wrong.pth" in refused(run, *FDAN, *common, "--weights", wrong)
    assert "nowhere.pth" in refused(run, *FDAN, *common, "--weights", tmp_path / "nowhere.pth")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("with_prepared")
def test_no_network_for_weights(run: Run, corpus: Path, tmp_path: Path) -> None:
    """The three ways out are in the line: a file, the cache folder, no pre-training."""
    # A proxy where nothing listens: the download fails at once, with or without a network.
    nowhere = "http://127.0.0.1:9"
    line = refused(
        run,
        *FDAN,
        "train",
        "--out",
        "x",
        "--task",
        f"demo:{corpus}",
        *SMALL,
        "--weights",
        "imagenet",
        TORCH_HOME=str(tmp_path / "cache"),
        http_proxy=nowhere,
        https_proxy=nowhere,
    )
    assert "--weights FILE" in line and "--weights none" in line, line
    assert str(tmp_path / "cache") in line, line
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("with_prepared")
def test_a_study_of_that_name_with_other_settings(run: Run, corpus: Path, tmp_path: Path) -> None:
    start = [
        *SEARCH,
        "--task",
        f"demo:{corpus}",
        *SMALL,
        *RANDOM,
        "--study",
        "mine",
        "--trials",
        "1",
    ]
    done = run(*start, "--concurrent", "1")
    assert done.returncode == 0, done.stderr
    kept = sorted(path for path in (tmp_path / "runs" / "mine").rglob("*") if path.is_file())
    line = refused(run, *start, "--space", "paper")
    assert "mine" in line and "space" in line, line
    other = keep(corpus, tmp_path / "c", lambda path: not path.stem.endswith("h01"))
    line = refused(run, *SEARCH, "--task", f"demo:{other}", *start[3:])
    assert "mine" in line and "data" in line, line
    assert kept == sorted(
        path for path in (tmp_path / "runs" / "mine").rglob("*") if path.is_file()
    )


def test_training_into_a_folder_that_holds_something_else(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("mine")
    line = refused(run, *FDAN, "train", "--out", "x", "--task", f"demo:{corpus}", *SMALL, *RANDOM)
    assert "holds something else" in line
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["thesis.tex"]


def test_a_python_without_texts(run: Run) -> None:
    done = run("search/run.py", "--dry-run", PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: PYTHONOPTIMIZE=2 ") and done.stderr.count("\n") == 1
