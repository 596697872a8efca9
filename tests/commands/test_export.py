"""A trained model at work, as a user starts it: its folder, its ONNX file, a registry's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdan.emotions import EMOTIONS
from fdan.inference.model_folder import read_model
from fdan.inference.predict import predict, speech_files
from tests.commands.conftest import Run

pytestmark = pytest.mark.long

SMALL = ("--spectrogram-size", "32", "--face-size", "32", "--backbone", "resnet18")
SMALL += ("--weights", "none", "--tuning", "frozen", "--epochs", "2", "--workers", "1")

# `python -m fdan` that says afterwards what of this was imported.
WATCHED = """
import sys
from fdan.__main__ import main
code = main()
print(sorted({"torch", "torchvision", "mlflow"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""

TOY = """
from pathlib import Path
def folder(address):
    return Path(address.removeprefix("toy:/"))
def lacking(address):
    import nowhere
"""


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, `first`, trained on the small corpus, and `first.onnx`."""
    folder = tmp_path_factory.mktemp("home")
    train = ["train", "--task", f"demo:{corpus}", *SMALL, "--out", "first"]
    for command in (train, ["export", "first", "first.onnx"]):
        done = subprocess.run(
            [sys.executable, "-m", "fdan", *command], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "first.onnx: " in done.stdout and done.stderr == ""
    return folder


def answers(run: Run, *arguments: str | Path, **environment: str) -> list[dict[str, Any]]:
    done = run("-m", "fdan", "predict", "--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def chances(found: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[one["probabilities"][emotion] for emotion in EMOTIONS] for one in found])


@pytest.fixture(scope="module")
def expected(home: Path, corpus: Path) -> np.ndarray:
    """What the folder's model says of the seven clips of a speaker."""
    model = read_model(home / "first" / "model")
    files = speech_files([corpus / "AudioData" / "AD"])
    return np.array([list(one.probabilities.values()) for one in predict(model, files)])


def test_onnx_answers_as_the_folder_and_without_torch(
    run: Run, home: Path, corpus: Path, expected: np.ndarray
) -> None:
    speech = corpus / "AudioData" / "AD"
    done = run("-c", WATCHED, "predict", home / "first.onnx", "--json", speech)
    assert done.returncode == 0 and done.stderr == "[]\n", done.stderr
    found = json.loads(done.stdout)
    np.testing.assert_allclose(chances(found), expected, atol=1e-5)
    assert [one["file"] for one in found] == [str(file) for file in sorted(speech.iterdir())]
    assert {one["model"] for one in found} == {str(home / "first.onnx")}

    table = run("-m", "fdan", "predict", home / "first.onnx", speech).stdout.splitlines()
    assert table[0] == f"by speech, model {home / 'first.onnx'}"
    assert [line.split()[0] for line in table[1:]] == [
        "emotion",
        *(one["emotion"] for one in found),
    ]


def test_a_model_by_its_address(
    run: Run, home: Path, corpus: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    """An entry point of another package, as pip leaves it on the disk."""
    clip = corpus / "AudioData" / "AD" / "a01.wav"
    site = tmp_path / "site"
    (site / "toy-1.0.dist-info").mkdir(parents=True)
    (site / "toy.py").write_text(TOY)
    (site / "toy-1.0.dist-info" / "METADATA").write_text("Name: toy\nVersion: 1.0\n")
    points = "[fdan.models]\ntoy = toy:folder\nbroken = nowhere:folder\nbare = toy:lacking\n"
    (site / "toy-1.0.dist-info" / "entry_points.txt").write_text(points)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    address = f"toy:/{home}/first"
    found = answers(run, "--model", address, clip, PYTHONPATH=path)
    np.testing.assert_allclose(chances(found), expected[:1], atol=1e-5)
    assert found[0]["model"] == address
    for name in ("broken:x", "bare:x"):
        done = run("-m", "fdan", "predict", "--model", name, clip, PYTHONPATH=path)
        assert done.returncode == 2 and ", which is not installed" in done.stderr
        assert done.stderr.count("\n") == 1


def test_on_a_slim_image_speech_is_judged_and_a_face_says_what_it_needs(
    run: Run, home: Path, corpus: Path, tmp_path: Path, expected: np.ndarray
) -> None:
    """Without libGL, OpenCV cannot be loaded, whatever pip says."""
    clip, face = corpus / "AudioData/AD/a01.wav", corpus / "VisualData/AD/a01.avi"
    (tmp_path / "site").mkdir()
    words = "libGL.so.1: cannot open shared object file"
    (tmp_path / "site" / "cv2.py").write_text(f"raise ImportError({words!r})\n")
    site = {"PYTHONPATH": str(tmp_path / "site")}
    found = answers(run, "--model", home / "first", clip, **site)
    np.testing.assert_allclose(chances(found), expected[:1], atol=1e-5)
    done = run("-m", "fdan", "predict", home / "first", clip, "--face", face, **site)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert words in done.stderr and "libgl1 and libglib2.0-0" in done.stderr
    assert "not installed" not in done.stderr


def test_a_face_beside_the_speech(run: Run, home: Path, corpus: Path, expected: np.ndarray) -> None:
    clip, face = corpus / "AudioData/AD/a01.wav", corpus / "VisualData/AD/a01.avi"
    (both,) = answers(run, "--model", home / "first", clip, "--face", face)
    assert both["by"] == "speech and face"
    assert abs(chances([both]) - expected[:1]).max() > 0.01


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "{home}/first"], "name a model (or give it with --model) and files"),
        (["predict", "--model", "{home}/first"], "name audio or video files to judge"),
        (
            ["predict", "{home}/first", "{corpus}/AudioData/AD", "--face", "{corpus}/x.jpg"],
            "not 7",
        ),
        (
            ["predict", "{home}/first", "{clip}", "--face", "nowhere.jpg"],
            "nowhere.jpg: no such file",
        ),
        (["predict", "{home}/first.onnx", "{clip}", "--face", "{clip}"], "face {clip}: "),
        (["predict", "{home}/first.onnx", "{clip}", "--face", "{face}"], "by speech alone"),
        (["predict", "{home}/first.onnx", "{clip}", "--device", "cuda"], "runs on the CPU"),
        (["predict", "{clip}", "{clip}"], "is damaged, or not one that"),
        (["predict", "nobodys:/x@y", "{clip}"], "nothing installed here opens nobodys:"),
        (["predict", "{home}/first", "{clip}", "--jsn"], "did you mean '--json'?"),
        (["export", "{home}/first", "out.bin"], "out.bin: name a file that ends in .onnx"),
        (["export", "{home}/first.onnx", "out.onnx"], "is a file; name the folder"),
        (["export", "nowhere", "out.onnx"], "nowhere: there is no model.json in it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line(
    run: Run, home: Path, corpus: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    places = {
        "home": home,
        "corpus": corpus,
        "clip": corpus / "AudioData/AD/a01.wav",
        "face": corpus / "VisualData/AD/a01.avi",
    }
    done = run("-m", "fdan", *(word.format(**places) for word in arguments))
    assert done.returncode == 2
    assert words.format(**places) in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == "" and list(tmp_path.iterdir()) == []
