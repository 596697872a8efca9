"""A model as ONNX: the same answers for every kind of network, or no file at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, WeightsError
from fdan.inference.export import TOLERANCE, export
from fdan.inference.model_folder import read_model
from fdan.inference.onnx_model import OnnxModel

pytestmark = pytest.mark.long

Make = Callable[..., Path]
IMAGES = np.random.default_rng(5).integers(0, 256, (70, 32, 32, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(new_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_model(tmp_path_factory.mktemp("a") / "model", {"study": "s", "trial": 4})


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("b") / "model.onnx"
    export(folder, file)
    return file


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 0},
        {"layers": 2, "heads": 4, "tuning": "full"},
        {"layers": 1, "backbone": "resnet34", "context": "none"},
        {"layers": 3, "backbone": "resnet50", "tuning": "full", "context": "none"},
        {"layers": 1, "backbone": "vgg16"},
        {"layers": 1, "tuning": "last"},
    ],
    ids=lambda settings: " ".join(str(value) for value in settings.values()),
)
def test_any_network_answers_alike(
    settings: dict[str, Any], new_model: Make, tmp_path: Path
) -> None:
    folder = new_model(tmp_path / "model", **settings)
    assert export(folder, tmp_path / "model.onnx") <= TOLERANCE
    answers, model = OnnxModel.read(tmp_path / "model.onnx"), read_model(folder)
    for n in (0, 1, 3, 70):
        found = answers.probabilities(IMAGES[:n])
        assert found.shape == (n, 7) and found.dtype == np.float64
        np.testing.assert_allclose(found, model.probabilities(IMAGES[:n]), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 1e-4, "all images are one to this network"


def test_the_file_says_what_it_is(folder: Path, exported: Path) -> None:
    model = OnnxModel.read(exported)
    assert model.facts == read_model(folder).facts
    assert model.facts["trial"] == 4 and model.facts["emotions"] == list(EMOTIONS)
    tensors = (folder / "model.safetensors").read_bytes()
    held = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert held["model_sha256"] == hashlib.sha256(tensors).hexdigest()
    assert json.loads(held["emotions"]) == list(EMOTIONS)
    assert json.loads(held["preparation"])["acoustic"]["spectrogram_size"] == 32
    assert str(Path(torch.__file__).parent).encode() not in exported.read_bytes()


def test_what_a_registry_calls_it_goes_along(folder: Path, tmp_path: Path) -> None:
    served = shutil.copytree(folder, tmp_path / "model")
    (served / "served.json").write_text('{"name": "fdan", "version": 3}')
    export(served, tmp_path / "model.onnx")
    facts = OnnxModel.read(tmp_path / "model.onnx").facts
    assert facts["served"] == {"name": "fdan", "version": "3"}


def test_one_that_answers_otherwise_is_not_written(folder: Path, tmp_path: Path) -> None:
    """Its logits are so large that float32 rounds off what they differ by."""
    broken = shutil.copytree(folder, tmp_path / "model")
    tensors = safetensors.torch.load_file(broken / "model.safetensors")
    tensors["model.head.classifier.weight"] += 1e5
    safetensors.torch.save_file(tensors, broken / "model.safetensors")
    file = tmp_path / "model.onnx"
    file.write_text("what was there before")
    with pytest.raises(WeightsError, match="answers otherwise than torch"):
        export(broken, file)
    assert file.read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "model.onnx"]


@pytest.mark.parametrize("name", ["model.bin", "nowhere/model.onnx", "folder.onnx"])
def test_where_it_cannot_go(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=name):
        export(folder, tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.onnx"]


def test_a_model_that_is_not_prepared_for(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "model")
    facts = json.loads((broken / "model.json").read_text())
    (broken / "model.json").write_text(json.dumps({**facts, "preparation": 3}))
    with pytest.raises(WeightsError, match="does not say how its speech was prepared"):
        export(broken, tmp_path / "model.onnx")


# Damaged and hostile files


def _changed(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        model = onnx.load(file)
        change(model)
        file.write_bytes(model.SerializeToString())

    return damage


def _metadata(**values: str) -> Callable[[Path], None]:
    def change(model: Any) -> None:
        held = {entry.key: entry.value for entry in model.metadata_props} | values
        onnx.helper.set_model_props(model, held)

    return _changed(change)


def _nan(model: Any) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classifier.bias"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(7, np.nan, "f4"), tensor.name))


def _tensor_elsewhere(model: Any) -> None:
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    Path("secret.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")


def _other_size(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**6


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x80\x04\x95\x0c\x00\x00\x00.pickle"),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        _changed(lambda model: model.ClearField("metadata_props")),
        _metadata(format="99"),
        _metadata(emotions='["calm"]'),
        _metadata(origin="[1]"),
        _metadata(preparation="{}"),
        _metadata(preparation='{"acoustic": {"version": 0}}'),
        _changed(_nan),
        _changed(_tensor_elsewhere),
        _changed(_other_size),
    ],
)
def test_a_damaged_file_is_one_line(
    damage: Callable[[Path], None],
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where a careless reader would find secret.bin
    file = tmp_path / "model.onnx"
    shutil.copyfile(exported, file)
    damage(file)
    with pytest.raises(WeightsError, match=r"model\.onnx") as caught:
        OnnxModel.read(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_no_faces(exported: Path) -> None:
    faces = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(WeightsError, match="by speech alone"):
        OnnxModel.read(exported).probabilities(IMAGES[:1], [faces])
