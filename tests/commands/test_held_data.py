"""What people's corpora hold: prepare, dry run, search and predict as a user starts them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from tests.commands.conftest import Run
from tests.commands.corpora import meld
from tests.commands.test_bad_input import FDAN, SEARCH, refused

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "crema_d"
WORDS = {"ANG": "OAF_angry", "DIS": "disgust", "FEA": "1_Fear"}
WORDS |= {"HAP": "Actor_03_happy", "NEU": "neutral", "SAD": "sad"}
SIZES = ("--spectrogram-size", "32", "--face-size", "32", "--workers", "1")
SMALL = (*SIZES, "--protocol", "paper", "--backbone", "resnet18", "--weights", "none")


def class_folders(root: Path, *names: str, each: int = 4) -> Path:
    """Noise as sound and as pictures, `each` of both in each folder."""
    random = np.random.default_rng(0)
    for name in names:
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(each):
            sound = random.normal(0, 0.1, 8000).astype(np.float32)
            soundfile.write(folder / f"{number}.wav", sound, 16000)
            picture = random.integers(0, 255, (40, 40, 3), np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
    return root


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of six emotions and a misspelt one, with files that nobody reads."""
    names = ("OAF_angry", "1_Disgust", "Actor_03_fear", "happy", "neutral", "sad", "suprise")
    root = class_folders(tmp_path_factory.mktemp("odd") / "c", *names)
    for name in ("notes.txt", "happy/a.heic", "happy/b.HEIC", "sad/README"):
        (root / name).touch()
    return root


def told(text: str) -> str:
    """What was printed, without the terminal's line breaks."""
    return " ".join(text.split())


def test_nothing_is_dropped_unseen(run: Run, odd: Path, tmp_path: Path) -> None:
    corpus = shutil.copytree(odd, tmp_path / "c")
    lines = (
        "folders (acoustic): not used: 2 .heic, 1 .txt, 1 no suffix",
        "folders (visual): not used: 2 .heic, 1 .txt, 1 no suffix",
        "'suprise' is not one of the seven emotions (did you mean 'surprise'?): 4 files left out",
        "no acoustic sample of surprise",
        "no visual sample of surprise",
    )
    task = ("--task", f"folders:{corpus}")
    planned = run(*SEARCH, *task, *SMALL, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    prepared = run(*FDAN, "prepare", *task, *SIZES, "--protocol", "paper")
    assert prepared.returncode == 0, prepared.stderr
    for line in lines:
        assert line in told(planned.stdout), line
        assert line in told(prepared.stdout), line
    # What comes later makes no other store, and is told all the same.
    (corpus / "later.rar").touch()
    stores = sorted((tmp_path / "runs" / "stores").glob("folders-*"))
    again = run(*FDAN, "prepare", *task, *SIZES, "--protocol", "paper")
    assert "1 .rar" in told(again.stdout)
    assert sorted((tmp_path / "runs" / "stores").glob("folders-*")) == stores


def test_films_that_no_table_names_are_told_though_both_modalities_read_films(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    films = meld(corpus, tmp_path / "meld")
    (films / "train_split").mkdir()  # a misspelt folder
    (films / "train_split" / "dia0_utt0.mp4").touch()
    done = run(*SEARCH, "--task", f"meld:{films}", *SIZES, "--protocol", "official", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "meld (acoustic): not used: 1 .mp4" in told(done.stdout)


def test_too_few_samples_are_refused_with_what_was_left_out(run: Run, tmp_path: Path) -> None:
    corpus = class_folders(tmp_path / "c", "angry", "happy", each=3)
    class_folders(corpus, "suprise", each=6)
    for number in (1, 2):
        (corpus / "angry" / f"{number}.wav").unlink()
    (corpus / "angry" / "1.heic").touch()
    task = ("--task", f"folders:{corpus}", *SIZES, "--protocol", "paper")
    line = refused(run, *FDAN, "prepare", *task)
    assert "only 1 anger sample" in line and "(did you mean 'surprise'?): 6 files left out" in line
    assert "not used: 1 .heic" in line


def test_what_lies_there_instead_is_told(run: Run, odd: Path) -> None:
    line = refused(run, *FDAN, "prepare", "--task", f"meld:{odd}")
    assert "none of MELD's tables" in line and "it holds 28 .png, 28 .wav, 2 .heic" in line
    line = refused(run, *FDAN, "prepare", "--task", f"folders:{odd / 'suprise'}")
    assert "lies in no class folder" in line and "it holds 4 .png, 4 .wav" in line


def test_the_search_and_its_report_tell_it_too(
    run_anew: Run, odd: Path, template: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copyfile(template, tmp_path / "runs" / "mlflow.db")
    words = ("--tuning", "frozen", "--epochs", "1", "--trials", "1", "--study", "s")
    for name in ("fdan", "search", "tracking"):  # another clone of this project, and its like
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the other clone')")
    for name in ("struct", "matplotlib", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the working folder')")
    done = run_anew(*SEARCH, "--task", f"folders:{odd}", *SMALL, *words)
    assert done.returncode == 0, done.stderr
    assert "not used: 2 .heic, 1 .txt, 1 no suffix" in told(done.stderr)
    assert "(did you mean 'surprise'?): 4 files left out" in told(done.stderr)
    assert "no acoustic sample of surprise" in told(done.stderr)
    assert list((tmp_path / "runs").rglob("learning_curve.png")), "drawn by a process of its own"
    report = (tmp_path / "runs" / "s" / "report.md").read_text()
    for sentence in ("The data have no speech of surprise", "The data have no faces of surprise"):
        assert report.count(sentence) == 2  # in its first lines and with the data


def test_numbers_are_asked_for_and_a_file_names_them(run: Run, tmp_path: Path) -> None:
    corpus = class_folders(tmp_path / "c", "0", "1", "rage")
    task = ("--task", f"folders:{corpus}", *SIZES, "--protocol", "paper")
    line = refused(run, *FDAN, "prepare", *task)
    assert "'0' is a number, and which emotion it stands for is not guessed" in line
    assert "--emotions" in line and '0 = "anger"' in line
    names = tmp_path / "names.toml"
    names.write_bytes(b'\xef\xbb\xbf0 = "happy"\n1 = "neutral"\nrage = "anger"\n')
    done = run(*FDAN, "prepare", *task, "--emotions", "names.toml")
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "runs" / "stores").glob("folders-acoustic-*/manifest.json")
    emotions = json.loads(manifest.read_text())["samples"]["emotions"]
    assert emotions == ["happiness"] * 4 + ["neutral"] * 4 + ["anger"] * 4
    other = ("--acoustic", f"savee:{corpus}", "--visual", f"savee:{corpus}")
    assert "no source is folders:PATH" in refused(
        run, *FDAN, "prepare", *other, "--emotions", "names.toml"
    )


def test_fer2013_as_a_table(run: Run, tmp_path: Path) -> None:
    sounds = class_folders(tmp_path / "c", "angry", "disgust", "happy")
    random = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for number in range(42):
        pixels = np.zeros(2304, int) if number == 7 else random.integers(0, 256, 2304)
        usage = ("Training", "Training", "PublicTest", "PrivateTest")[number % 4]
        lines.append(f'{number % 7},"{" ".join(map(str, pixels))}",{usage}')
    (tmp_path / "fer").mkdir()
    (tmp_path / "fer" / "fer2013.csv").write_text("\n".join(lines) + "\n")
    faces = f"folders:{tmp_path / 'fer'}"
    task = ("--acoustic", f"folders:{sounds}", "--visual", faces, "--protocol", "paper")
    done = run(*FDAN, "prepare", *task, *SIZES)
    assert done.returncode == 0, done.stderr
    assert "unreadable: fer2013.csv/9: is blank" in told(done.stdout)
    (manifest,) = (tmp_path / "runs" / "stores").glob("folders-visual-*/manifest.json")
    samples = json.loads(manifest.read_text())["samples"]
    assert len(samples["files"]) == len(set(samples["contents"])) == 41
    assert samples["emotions"][:3] == ["anger", "disgust", "fear"]
    assert samples["parts"][:4] == ["train", "train", "validation", "test"]
    line = refused(run, *FDAN, "prepare", "--task", faces)
    assert "it holds fer2013.csv, a table of pixels" in line


def test_a_byte_order_mark_is_no_fault(run: Run, odd: Path, tmp_path: Path) -> None:
    space = '[dimensions.lr]\ntype = "float"\nlow = 0.001\nhigh = 0.1\n'
    (tmp_path / "space.toml").write_text(space, encoding="utf-8-sig")
    study = f'[data]\ntask = "folders:{odd}"\n[search]\nspace = "space.toml"\n'
    (tmp_path / "study.toml").write_text(study, encoding="utf-8-sig")
    done = run(*SEARCH, "--config", "study.toml", "--dry-run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *lr +0.001", done.stdout, re.MULTILINE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_films_and_mp3s(run: Run, tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    for file in sorted(SHARED.iterdir()):
        if (word := WORDS.get(file.stem.split("_")[-2])) is None:
            continue
        (corpus / word).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, corpus / word)
        if file.suffix == ".mp3":  # a class needs three recordings
            (corpus / word / "joined.mp3").write_bytes(file.read_bytes() * 2)
    task = ("--task", f"folders:{corpus}", *SMALL, "--tuning", "frozen", "--epochs", "1")
    done = run(*FDAN, "train", *task, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "no acoustic sample of surprise" in told(done.stderr)
    stores = {}
    for manifest in (tmp_path / "runs" / "stores").glob("*/manifest.json"):
        store = json.loads(manifest.read_text())
        assert store["unreadable"] == []
        stores[store["modality"]] = store
    assert stores["acoustic"]["shape"][0] == 18 and stores["visual"]["shape"][0] == 18
    assert stores["visual"]["counts"]["faces found"] == 18
    assert "not used" not in told(done.stdout + done.stderr)
    done = run(*FDAN, "predict", "--json", "out", corpus)
    assert done.returncode == 0, done.stderr
    assert sum(bool(answer["emotion"]) for answer in json.loads(done.stdout)) == 18
