from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from search.callbacks.trial_plots import confusion_matrix, learning_curve


def test_rows_are_coloured_by_their_own_size(tmp_path: Path) -> None:
    """A rare class, all right, is as dark as a frequent one, all right."""
    counts = np.diag([1000, 2, 3, 4, 5, 6, 7])
    image = imread(confusion_matrix(counts, tmp_path / "m.png", "trial-0001"))
    assert image.shape[0] > 900 and image.shape[1] > 900
    height, width = image.shape[:2]
    size = 0.69 / 7
    corners = []
    for n in range(7):
        x = 0.175 + (n + 0.12) * size * height / width  # near the cell's corner, beside its text
        y = 1 - 0.165 - 0.69 + (n + 0.12) * size
        corners.append(image[int(y * height), int(x * width), :3])
    assert np.ptp(np.array(corners), axis=0).max() < 0.02
    assert corners[0].mean() < 0.4


def test_a_class_without_samples_and_a_single_sample(tmp_path: Path) -> None:
    counts = np.zeros((7, 7), dtype=np.int64)
    counts[0, 3] = 1
    assert confusion_matrix(counts, tmp_path / "m.png", "trial-0001").stat().st_size > 10_000


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_learning_curves_of_any_length(tmp_path: Path, epochs: int) -> None:
    history = [
        (n, {"train/loss": 1 / n, "validation/uar": 0.5, "value": math.nan if n == 2 else 0.3})
        for n in range(1, epochs + 1)
    ]
    file = learning_curve(history, tmp_path / "c.png", "trial-0001")
    assert file.stat().st_size > 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_no_global_state(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        " from search.callbacks.trial_plots import learning_curve;"
        f"learning_curve([(1, {{'value': 0.5}})], Path({str(tmp_path)!r}) / 'c.png', '');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "False\n", done.stderr
