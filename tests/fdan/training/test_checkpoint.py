"""Checkpoints and model folders: whole or refused, tensors only, the same numbers again."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fdan.errors import WeightsError
from fdan.inference.model_folder import read_model
from fdan.inference.model_writer import write_model
from fdan.model.backbones import build_backbone, find_weights
from fdan.training import checkpoint
from fdan.training.checkpoint import Checkpoint
from fdan.training.train import train
from fdan.training.validate import score_checkpoint

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(frozen_data: Make, run_of: Make) -> Checkpoint:
    weights = find_weights("resnet18", "none")
    data = replace(frozen_data(), weights=weights)
    return train(run_of(epochs=2, layers=2), data, lambda *_: None)


def test_what_is_saved_is_loaded(trained: Checkpoint, tmp_path: Path) -> None:
    trained.save(tmp_path / "a" / "b")
    back = Checkpoint.load(tmp_path / "a" / "b")
    assert back.tensors.keys() == trained.tensors.keys()
    for name, tensor in back.tensors.items():
        assert torch.equal(tensor, trained.tensors[name]) and tensor.dtype == (
            trained.tensors[name].dtype
        )
    for name in ("run", "epoch", "step", "history", "backbone_sha256", "data"):
        assert getattr(back, name) == getattr(trained, name)
    assert back.value == trained.value


def test_a_frozen_run_keeps_its_head_alone(trained: Checkpoint) -> None:
    assert not any("backbones" in name for name in trained.tensors)
    assert {name for name in trained.tensors if name.startswith("bank")} == {"bank.0", "bank.1"}
    assert trained.tensors["bank.0"].shape == (14, 16)


def test_the_value_is_the_mean_of_the_last_five(trained: Checkpoint) -> None:
    history = (0.9, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert replace(trained, history=history).value == pytest.approx(0.3)
    assert replace(trained, history=(0.2, 0.4)).value == pytest.approx(0.3)


def test_a_folder_holds_the_newest_checkpoint_and_nothing_else(
    trained: Checkpoint, tmp_path: Path
) -> None:
    for epoch in (1, 2, 3):
        replace(trained, epoch=epoch).save(tmp_path)
    assert Checkpoint.load(tmp_path).epoch == 3
    assert len(list(tmp_path.iterdir())) == 2


def _die(trained: Checkpoint, folder: Path) -> None:
    """End between the new tensors and the JSON that would name them."""
    checkpoint.write_atomic = lambda *_, **__: os._exit(9)
    replace(trained, epoch=99).save(folder)


def test_a_writer_that_dies_leaves_the_old_checkpoint(trained: Checkpoint, tmp_path: Path) -> None:
    trained.save(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die, args=(trained, tmp_path))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 9
    assert len(list(tmp_path.iterdir())) == 3
    assert Checkpoint.load(tmp_path).epoch == trained.epoch
    replace(trained, epoch=4).save(tmp_path)
    assert Checkpoint.load(tmp_path).epoch == 4 and len(list(tmp_path.iterdir())) == 2


def _json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "checkpoint.json"
        facts = json.loads(file.read_text())
        change(facts)
        file.write_text(json.dumps(facts))

    return damage


def _truncate(pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = next(folder.glob(pattern))
        os.truncate(file, file.stat().st_size // 2)

    return damage


def _flip(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    held = bytearray(file.read_bytes())
    held[-5] ^= 1
    file.write_bytes(held)


def _point_outside(folder: Path) -> None:
    """Whole tensors, but not in the checkpoint's own folder."""
    file = next(folder.glob("*.safetensors"))
    file.rename(folder.parent / file.name)
    _json(lambda facts: facts.update(tensors=f"../{file.name}"))(folder)


def _remove(pattern: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(pattern)).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _truncate("*.safetensors"),
        _truncate("*.json"),
        _flip,
        _remove("*.safetensors"),
        _remove("*.json"),
        _json(lambda facts: facts.pop("history")),
        _json(lambda facts: facts.update(epoch="many")),
        _json(lambda facts: facts.update(format=77)),
        _json(lambda facts: facts.update(history=None)),
        _json(lambda facts: facts["run"].update(widht=3)),
        _point_outside,
        lambda folder: (folder / "checkpoint.json").write_bytes(b"\xff\x00\x01"),
        lambda folder: (folder / "checkpoint.json").write_text("[]"),
    ],
)
def test_damage_is_one_clear_line(
    damage: Callable[[Path], None], trained: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    trained.save(folder)
    damage(folder)
    with pytest.raises(WeightsError, match="kept") as caught:
        Checkpoint.load(folder)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        Checkpoint.load(tmp_path / "nowhere")


def test_tensors_of_another_network_are_refused(
    trained: Checkpoint, frozen_data: Make, run_of: Make
) -> None:
    data = replace(frozen_data(), weights=find_weights("resnet18", "none"))
    other = replace(trained, run=run_of(epochs=2, layers=2, width=32))
    with pytest.raises(WeightsError, match="does not fit"):
        score_checkpoint(other, data, data.acoustic_validation)


def test_features_of_other_weights_are_refused(trained: Checkpoint, frozen_data: Make) -> None:
    data = frozen_data()
    with pytest.raises(WeightsError, match="other backbone weights"):
        score_checkpoint(trained, data, data.acoustic_validation)


# Model folders


def test_a_model_folder_predicts_what_the_checkpoint_does(
    trained: Checkpoint, frozen_data: Make, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1), dtype=np.uint8)
    folder = tmp_path / "model"
    write_model(folder, trained, {"preparation": {"mels": 64}})
    model = read_model(folder)
    found = model.probabilities(images)
    assert found.shape == (5, 7)
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(model.probabilities(images[2:3])[0], found[2], atol=1e-5)
    assert model.probabilities(images[:0]).shape == (0, 7)

    backbone = build_backbone(find_weights("resnet18", "none")).eval()
    with torch.inference_mode():
        features = backbone(torch.from_numpy(images)).numpy()
    data = frozen_data(acoustic=21)
    data.acoustic.arrays[0][:5] = torch.from_numpy(features)
    data = replace(data, weights=find_weights("resnet18", "none"))
    expected = score_checkpoint(trained, data, np.arange(5)).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)

    assert model.facts["preparation"] == {"mels": 64}
    assert model.facts["emotions"][0] == "anger" and model.facts["epoch"] == 2
    held = safetensors.torch.load_file(folder / "model.safetensors")
    assert any(name.startswith("model.backbones.visual") for name in held)
    assert not any(name.startswith("momentum") for name in held)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_model_folder_is_replaced_whole(trained: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for note in ("first", "second"):
        write_model(folder, trained, {"note": note})
    assert read_model(folder).facts["note"] == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_fully_trained_model_keeps_its_own_backbones(
    image_data: Make, run_of: Make, tmp_path: Path
) -> None:
    data = image_data()
    last = train(run_of(tuning="full", epochs=1, batch=7), data, lambda *_: None)
    write_model(tmp_path / "model", last, {})
    images = data.acoustic.select(data.acoustic_validation).numpy()
    np.testing.assert_allclose(
        read_model(tmp_path / "model").probabilities(images),
        score_checkpoint(last, data, data.acoustic_validation).probabilities,
        atol=1e-5,
    )


def test_a_model_whose_last_stage_was_trained_is_whole(
    map_data: Make, image_data: Make, run_of: Make, tmp_path: Path
) -> None:
    """It reads images, and answers what the checkpoint does for their maps; what comes before the
    last stage is as its weights are."""
    data = map_data()
    last = train(run_of(tuning="last", epochs=2, batch=7), data, lambda *_: None)
    write_model(tmp_path / "model", last, {})
    held = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    weights = build_backbone(data.weights).state_dict()
    for modality in ("acoustic", "visual"):
        for name, tensor in weights.items():
            whole = f"model.backbones.{modality}.{name}"
            if name.startswith("body.layer4."):
                assert torch.equal(held[whole], last.tensors[whole]), name
                assert not torch.equal(held[whole], tensor), name
            else:
                assert torch.equal(held[whole], tensor), name
    images = image_data().acoustic.select(data.acoustic_validation).numpy()
    np.testing.assert_allclose(
        read_model(tmp_path / "model").probabilities(images),
        score_checkpoint(last, data, data.acoustic_validation).probabilities,
        atol=1e-5,
    )
    with pytest.raises(WeightsError, match="changed since training"):
        write_model(tmp_path / "other", replace(last, backbone_sha256="0" * 64), {})


def test_weights_that_changed_since_training_are_refused(
    trained: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match="changed since training"):
        write_model(tmp_path / "model", replace(trained, backbone_sha256="0" * 64), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        _truncate("*.safetensors"),
        _truncate("*.json"),
        _remove("*.safetensors"),
        _remove("*.json"),
        lambda folder: (folder / "model.json").write_text('{"format": 1}'),
        lambda folder: (folder / "model.json").write_text("3"),
    ],
)
def test_a_damaged_model_is_one_clear_line(
    damage: Callable[[Path], None], trained: Checkpoint, tmp_path: Path
) -> None:
    write_model(tmp_path / "model", trained, {})
    damage(tmp_path / "model")
    with pytest.raises(WeightsError, match="model") as caught:
        read_model(tmp_path / "model")
    assert "\n" not in str(caught.value)
