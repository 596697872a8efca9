"""A model's folder that someone else made: refused in one line, with nothing run and nothing
written. And faces, where there are any."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from fdan.errors import WeightsError
from fdan.inference.model_folder import read_model

Make = Callable[..., Path]
RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
FACES = RANDOM.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(new_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_model(tmp_path_factory.mktemp("a") / "model", layers=2)


class _Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        held = safetensors.torch.load_file(folder / "model.safetensors")
        change(held)
        safetensors.torch.save_file(held, folder / "model.safetensors")

    return damage


def _set(name: str, tensor: Tensor) -> Callable[[Path], None]:
    return _tensors(lambda held: held.update({name: tensor}))


def _facts(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        facts = json.loads((folder / "model.json").read_text())
        change(facts)
        (folder / "model.json").write_text(json.dumps(facts))

    return damage


BIAS, BANK = "model.head.classifier.bias", "bank.1"
STD = "model.head.standardise.acoustic.std"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(_Boom())), "damaged"),
        (lambda f: torch.save({"a": _Boom()}, f / "model.safetensors"), "damaged"),
        (lambda f: os.truncate(f / "model.safetensors", 10_000_000), "damaged"),
        (lambda f: os.truncate(f / "model.safetensors", 5), "damaged"),
        (_set(BIAS, torch.full((7,), torch.nan)), f"'{BIAS}' holds values that are no numbers"),
        (_set(BIAS, torch.full((7,), torch.inf)), f"'{BIAS}' holds values that are no numbers"),
        (_set(STD, torch.full((512,), torch.nan)), f"'{STD}' holds values that are no numbers"),
        (_set(BANK, torch.full((9, 16), torch.nan)), f"'{BANK}' holds values that are no numbers"),
        (_set(BIAS, torch.zeros(8)), r"torch.float32 \(8,\), not torch.float32 \(7,\)"),
        (_set(BIAS, torch.zeros(7, dtype=torch.float64)), "torch.float64"),
        (_set(BIAS, torch.zeros(7, dtype=torch.int32)), "torch.int32"),
        (_set(BANK, torch.zeros(9, 15)), r"\(9, 15\), not torch.float32 \(9, 16\)"),
        (_set(BANK, torch.zeros(0, 16)), r"\(0, 16\)"),
        (_set(BANK, torch.zeros(())), r"float32 \(\)"),
        (_tensors(lambda held: held.pop(BANK)), f"'{BANK}' is missing"),
        (_tensors(lambda held: held.pop(BIAS)), f"'{BIAS}' is missing"),
        (_set("bank.2", torch.zeros(9, 16)), "'bank.2' is not of this model"),
        (_set("../../evil", torch.zeros(1)), "'../../evil' is not of this model"),
        (_facts(lambda facts: facts["run"].update(width=10**9, heads=1)), "damaged"),
        (_facts(lambda facts: facts["run"].update(backbone="os.system")), "backbone"),
        (_facts(lambda facts: facts.update(run="rm -rf")), "unknown setting"),
        (lambda f: (f / "model.json").write_text("[" * 100_000), "damaged"),
    ],
)
def test_a_hostile_folder_is_one_line(
    damage: Callable[[Path], Any],
    words: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(WeightsError, match=words) as caught:
        read_model(tmp_path / "model")
    assert "\n" not in str(caught.value) and "model" in str(caught.value)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["model", "model/model.json", "model/model.safetensors"]


def test_paths_that_climb_out_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """All files that are opened while such a model answers are written down."""
    shutil.copytree(folder, tmp_path / "model")
    for name in ("secret.pth", "store"):
        (tmp_path / name).write_text("private")
    stores = {m: [{"folder": "../../store", "fingerprint": "0"}] for m in ("acoustic", "visual")}
    _facts(lambda facts: facts["run"].update(weights="../secret.pth"))(tmp_path / "model")
    _facts(lambda facts: facts.update(stores=stores, tensors="../../x"))(tmp_path / "model")
    code = (
        "import sys\nopened = []\n"
        "def note(event, given):\n"
        "    if event in ('open', 'os.listdir', 'os.scandir'): opened.append(str(given[0]))\n"
        "sys.addaudithook(note)\n"
        "import numpy as np\nfrom pathlib import Path\n"
        "from fdan.inference.model_folder import read_model\n"
        "print(read_model(Path('model')).probabilities(np.zeros((1, 32, 32, 1), np.uint8)).sum())\n"
        "print([name for name in opened if 'secret.pth' in name or name.endswith('store')])\n"
        "print([name for name in opened if name.startswith('model')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    total, outside, inside = done.stdout.splitlines()
    assert float(total) == pytest.approx(1)
    assert outside == "[]" and "model.json" in inside


# Faces


def test_faces_are_half_of_the_answer(folder: Path) -> None:
    model = read_model(folder)
    speech = model.probabilities(IMAGES)
    both = model.probabilities(IMAGES, [FACES, None, FACES[:1]])
    np.testing.assert_allclose(both.sum(1), 1)
    np.testing.assert_allclose(both[1], speech[1])

    # From the equations: a face that hears nothing is its own message (Eq. 4).
    head = model.network.head
    with torch.inference_mode():
        x_VF = model.network.features("visual", torch.from_numpy(FACES))
        z_VD = head.bottleneck["visual"](head.standardise["visual"](x_VF))
        for layer in head.layers:
            side: Any = layer.visual  # type: ignore[union-attr]
            z_VD = side.norm_message(z_VD)
            z_VD = side.norm_ffn(z_VD + side.ffn(z_VD))
        alone = torch.softmax(head.classifier(z_VD).double(), 1).numpy()
    together = alone.prod(0) ** 0.5  # the geometric mean of two images
    product = np.sqrt(speech[0] * together)
    np.testing.assert_allclose(both[0], product / product.sum(), atol=1e-6)
    product = np.sqrt(speech[2] * alone[0])
    np.testing.assert_allclose(both[2], product / product.sum(), atol=1e-6)


def test_a_face_changes_its_own_row_alone(folder: Path) -> None:
    model = read_model(folder)
    one = model.probabilities(IMAGES[:1], [FACES])
    np.testing.assert_allclose(
        model.probabilities(IMAGES, [FACES, FACES, None])[:1], one, atol=1e-6
    )
