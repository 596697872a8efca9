"""Backbones: sizes, pixels, and weights from every place they come from."""

from __future__ import annotations

import pickle
import socket
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision

from fdan.errors import WeightsError
from fdan.model.backbones import Backbone, LastStage, build_backbone, find_weights, map_shape
from fdan.run_config import FEATURES

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data" / "weights"


def images(count: int = 2, size: int = 32, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict of torchvision's own resnet18, with its classifier."""
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18().state_dict())


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_each_network(name: str) -> None:
    with torch.inference_mode():
        backbone = build_backbone(find_weights(name, "none")).eval()
        assert backbone(images(size=64)).shape == (2, FEATURES[name])


def test_features_are_torchvisions_before_its_classifier(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "w.pth")
    backbone = build_backbone(find_weights("resnet18", str(tmp_path / "w.pth"))).eval()
    whole = torchvision.models.resnet18()
    whole.load_state_dict(state)
    whole.eval()
    pixels = images(3, 48)
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.inference_mode():
        found = whole.fc(backbone(pixels))
        expected = whole(normalise(pixels.permute(0, 3, 1, 2).float() / 255))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        # Speech: one channel stands for three.
        grey = pixels[..., :1]
        torch.testing.assert_close(backbone(grey), backbone(grey.expand(-1, -1, -1, 3)))


def test_vgg_features_are_its_maps_averaged() -> None:
    backbone = build_backbone(find_weights("vgg16", "none")).eval()
    pixels = images(1, 64)
    with torch.inference_mode():
        normal = (pixels.float() / 255 - backbone.mean) / backbone.std
        maps = backbone.body.features(normal.permute(0, 3, 1, 2))
        torch.testing.assert_close(backbone(pixels), maps.mean((2, 3)))


LAST = {
    **{name: {"layer4"} for name in ("resnet18", "resnet34", "resnet50")},
    "vgg16": {f"features.{layer}" for layer in (24, 26, 28)},
    "vgg19": {f"features.{layer}" for layer in (28, 30, 32, 34)},
}
"""Where the tensors of each network's last stage are."""


@pytest.mark.parametrize("name", FEATURES)
def test_the_last_stage_goes_on_from_the_maps_before_it(name: str) -> None:
    backbone = build_backbone(find_weights(name, "none")).eval()
    pixels = images(2, 48, 1)
    stage = LastStage(backbone)
    with torch.inference_mode():
        maps = backbone.maps(pixels)
        torch.testing.assert_close(stage(maps), backbone(pixels), rtol=1e-5, atol=1e-5)
    channels = {"resnet18": 256, "resnet34": 256, "resnet50": 1024}.get(name, 512)
    assert tuple(maps.shape[1:]) == map_shape(name, 48, 48) == (3, 3, channels)
    held = stage.state_dict()
    parts = {key.removeprefix("body.") for key in held}
    assert all(any(key.startswith(f"{part}.") for part in LAST[name]) for key in parts)
    assert len(held) == sum(
        any(key.startswith(f"{part}.") for part in LAST[name]) for key in backbone.body.state_dict()
    )


def test_a_map_of_an_image_that_is_no_square() -> None:
    backbone = build_backbone(find_weights("resnet18", "none")).eval()
    with torch.inference_mode():
        maps = backbone.maps(images(1, 80)[:, :50])
    assert tuple(maps.shape[1:]) == map_shape("resnet18", 50, 80) == (4, 5, 256)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_a_last_stage_takes_its_place_in_a_backbone(name: str) -> None:
    stage, whole = (build_backbone(find_weights(name, "none")).eval() for _ in range(2))
    before = {key: tensor.clone() for key, tensor in whole.state_dict().items()}
    trained = LastStage(stage)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.01)
    whole.load_last_stage(trained)
    changed = {key for key, z in whole.state_dict().items() if not torch.equal(z, before[key])}
    assert changed == {key for key, _ in trained.named_parameters()}
    with torch.inference_mode():
        torch.testing.assert_close(whole(images()), stage(images()))
    other = build_backbone(find_weights("vgg19", "none"))
    with pytest.raises(AssertionError, match="of another network"):
        other.load_last_stage(trained)


def test_without_weights_the_start_is_always_the_same() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = build_backbone(find_weights("resnet18", "none"))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other = build_backbone(find_weights("resnet18", "none"))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert find_weights("resnet18", "none") == find_weights("resnet18", "none")
    assert find_weights("resnet18", "none").sha256 != find_weights("resnet34", "none").sha256


def test_files_of_every_kind_give_the_same(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    bare = {k: v for k, v in state.items() if not k.startswith("fc.")}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "plain.pth")
    torch.save(OrderedDict(bare), tmp_path / "bare.pth")
    torch.save(old, tmp_path / "old.pth")
    torch.save(half, tmp_path / "half.pth")
    safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
    made = {}
    for file in tmp_path.iterdir():
        made[file.name] = build_backbone(find_weights("resnet18", str(file))).eval()
        assert {p.dtype for p in made[file.name].parameters()} == {torch.float32}
    with torch.inference_mode():
        expected = made["plain.pth"](images())
        for name, backbone in made.items():
            tolerance = 2e-2 if name == "half.pth" else 0
            torch.testing.assert_close(backbone(images()), expected, rtol=0, atol=tolerance)
    # Trainable, like any other.
    made["bare.pth"].train()(images()).sum().backward()
    assert all(p.grad is not None for p in made["bare.pth"].parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer3.1.conv2.weight"), "'layer3.1.conv2.weight' is missing"),
        (lambda s: s.update({"layer9.weight": torch.zeros(1)}), "which has no 'layer9.weight'"),
        (
            lambda s: s.update({"bn1.weight": torch.zeros(3)}),
            r"'bn1.weight' has shape \(3,\), expected \(64,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_name_the_first_difference(
    change: Any, message: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    spoilt = dict(state)
    change(spoilt)
    torch.save(spoilt, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=f"do not fit resnet18.*{message}"):
        build_backbone(find_weights("resnet18", str(tmp_path / "w.pth")))


def test_weights_of_another_network(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"do not fit resnet50: 'layer1\.0\.conv1\.weight'"):
        build_backbone(find_weights("resnet50", str(tmp_path / "w.pth")))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trapped"),))


def test_files_that_are_no_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"w": torch.zeros(1)}}, tmp_path / "nested.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    torch.save({"w": torch.zeros(3)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:200])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    (tmp_path / "bad.safetensors").write_bytes(b"\x08" * 20)
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap()))
    torch.save(Trap(), tmp_path / "trap2.pth")
    for file in list(tmp_path.iterdir()):
        with pytest.raises(WeightsError, match=file.name) as caught:
            build_backbone(find_weights("resnet18", str(file)))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        find_weights("resnet18", str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match="no such file"):
        find_weights("resnet18", str(tmp_path))


def test_no_network_for_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A port that nobody listens on stands for the network, wherever the test runs.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        find_weights("resnet34", "imagenet")
    text = str(caught.value)
    assert "\n" not in text
    for way in ("--weights FILE", "resnet34-b627a593.pth", str(tmp_path), "--weights none"):
        assert way in text
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_imagenet_from_the_cache_folder(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(state, file)
    found = find_weights("resnet18", "imagenet")
    assert found.file == file
    torch.testing.assert_close(build_backbone(found).body.conv1.weight, state["conv1.weight"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_the_weights_at_hand(name: str) -> None:
    weights = find_weights(name, str(SHARED / f"{name}-imagenet-vq.pth"))
    with torch.inference_mode():
        out = build_backbone(weights).eval()(images(2, 64))
    assert out.shape == (2, 512) and torch.isfinite(out).all() and out.std() > 0.1


def test_a_new_backbone_is_its_own() -> None:
    one, other = (build_backbone(find_weights("resnet18", "none")) for _ in range(2))
    assert one.body.conv1.weight.data_ptr() != other.body.conv1.weight.data_ptr()
    assert isinstance(one, Backbone)
