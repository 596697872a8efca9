"""A GPU image has torch and little else: training from carried stores asks for nothing more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import Run

pytestmark = pytest.mark.long

ABSENT = ("av", "cv2", "librosa", "matplotlib", "mlflow", "optuna", "ray", "sklearn")
ABSENT += ("soundfile", "soxr")

# `python -m fdan` where those are not found.
BARE = f"""
import runpy
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT!r} else find(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
runpy.run_module("fdan", run_name="__main__", alter_sys=True)
"""


def test_train_and_evaluate_from_stores(run: Run, corpus: Path, tmp_path: Path) -> None:
    sizes = ("--spectrogram-size", "32", "--face-size", "32")
    done = run("-m", "fdan", "prepare", "--task", f"demo:{corpus}", *sizes)
    assert done.returncode == 0, done.stderr
    (acoustic,) = (tmp_path / "runs/stores").glob("demo-acoustic-*")
    (visual,) = (tmp_path / "runs/stores").glob("demo-visual-*")

    missed = run("-c", BARE.replace("runpy.run_module", "import cv2; runpy.run_module"))
    assert "No module named 'cv2'" in missed.stderr, "nothing is absent: this test proves nothing"

    sources = ("--acoustic", f"store:{acoustic}", "--visual", f"store:{visual}")
    model = ("--backbone", "resnet18", "--weights", "none", "--epochs", "1", "--batch", "4")
    for tuning in ("full", "last", "frozen"):
        done = run("-c", BARE, "train", *sources, *model, "--tuning", tuning, "--out", tuning)
        assert done.returncode == 0, done.stderr
        done = run("-c", BARE, "evaluate", f"{tuning}/model")
        assert done.returncode == 0, done.stderr
        assert "UAR" in done.stdout
