"""Torchvision's networks as feature extractors, and where their weights come from.

Pixels: uint8, (N, H, W, C), C = 3 (RGB faces) or 1 (log-mel images, repeated to three channels).
Maps: float32, (N, H', W', C'), what enters a network's last stage.
"""

from __future__ import annotations

import hashlib
import pickle
import socket
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor, nn

from fdan.device import seeded
from fdan.errors import WeightsError, out_of_memory
from fdan.files import first_line, sha256_file
from fdan.lock import wait_for_lock

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_CLASSIFIER: Final = ("fc.", "classifier.")
_DOWNLOAD_TIMEOUT: Final = 20.0  # seconds without an answer
_NO_WEIGHTS_SEED: Final = 0
_UNREADABLE: Final = (
    *(OSError, RuntimeError, EOFError, ValueError, KeyError),
    *(pickle.UnpicklingError, safetensors.SafetensorError),
)
"""What a file that is no state dict leads to."""


class Backbone(nn.Module):
    """Images to pooled features: (N, H, W, C) uint8 to (N, F) float32.

    A torchvision network without its classifier; its feature maps are averaged over the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        # On the CPU even if the weights are built without storage: nothing loads these two.
        for constant, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(constant, torch.tensor(values, device="cpu"), persistent=False)
        # Imported here, since a trial on frozen features does not need it.
        import torchvision.models

        self.body: nn.Module = torchvision.models.get_model(name, weights=None)
        if name.startswith("resnet"):
            self.body.fc = nn.Identity()
        else:
            self.body.avgpool = nn.AdaptiveAvgPool2d(1)
            self.body.classifier = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.body(self._pixels(images))
        return out

    def maps(self, images: Tensor) -> Tensor:
        """Maps, (N, H', W', C'), of images: the input of the last stage."""
        early, _ = _divide(self.body)
        maps: Tensor = early(self._pixels(images))
        return maps.permute(0, 2, 3, 1)

    def load_last_stage(self, stage: LastStage) -> None:
        """Take over the weights of a last stage that was trained by itself."""
        fitting = self.load_state_dict(stage.state_dict(), strict=False)
        assert not fitting.unexpected_keys, "a last stage of another network"

    def _pixels(self, images: Tensor) -> Tensor:
        # Broadcasting repeats a single channel.
        pixels = (images.float() / 255 - self.mean) / self.std
        # A transposed view, channels last: the layout that convolutions are fastest in.
        return pixels.permute(0, 3, 1, 2)


class LastStage(nn.Module):
    """A backbone's last stage by itself: maps, (N, H', W', C'), to pooled features, (N, F). Its
    tensors are the backbone's own, under the names that they have there."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        _, self.body = _divide(backbone.body)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = self.body(maps.permute(0, 3, 1, 2))
        return out.flatten(1)


def _divide(body: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """A network's parts before its last stage, and those from there on: a ResNet's layer4, or a
    VGG's last block of convolutions. Each has its name in the network's state dict."""
    early, last = OrderedDict[str, nn.Module](), OrderedDict(body.named_children())
    features = last.get("features")
    if isinstance(features, nn.Sequential):  # a VGG's, whose blocks end with a pooling each
        pools = [i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
        cut = pools[-2] + 1
        early["features"], last["features"] = features[:cut], features[cut:]
    else:
        while (name := next(iter(last))) != "layer4":
            early[name] = last.pop(name)
    return nn.Sequential(early), nn.Sequential(last)


@cache
def map_shape(name: str, height: int, width: int) -> tuple[int, int, int]:
    """(H', W', C') of the maps of an image.

    Args:
        name: One of FEATURES.
        height: The image's height in pixels.
        width: Its width.
    """
    with torch.device("meta"):  # shapes alone
        early, _ = _divide(Backbone(name).body)
        _, channels, rows, columns = early.eval()(torch.empty(1, 3, height, width)).shape
    return rows, columns, channels


@dataclass(frozen=True)
class Weights:
    """Initial weights of a backbone."""

    backbone: str
    file: Path | None  # None: a seeded random start
    sha256: str  # of the file, or of a description of the random start


def find_weights(backbone: str, source: str) -> Weights:
    """The weights that a setting names. WeightsError: there is no such file, or it cannot be
    downloaded.

    Args:
        backbone: One of FEATURES.
        source: 'imagenet' (torchvision's, downloaded once to torch's cache folder), 'none' or a
            state dict's file.
    """
    if source == "none":
        identity = f"none {backbone} seed {_NO_WEIGHTS_SEED} torch {torch.__version__}"
        return Weights(backbone, None, hashlib.sha256(identity.encode()).hexdigest())
    file = _imagenet(backbone) if source == "imagenet" else Path(source).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"weights '{source}': no such file. Give a state dict's file, 'imagenet' or 'none'"
        )
    try:
        return Weights(backbone, file, sha256_file(file))
    except OSError as error:
        raise WeightsError(f"weights {file} cannot be read: {error.strerror}") from None


def build_backbone(weights: Weights) -> Backbone:
    """A new Backbone on the CPU with these weights. WeightsError if they do not fit."""
    if weights.file is None:
        with seeded(_NO_WEIGHTS_SEED):
            backbone = Backbone(weights.backbone)
    else:
        with torch.device("meta"):  # no time spent on initial values that the file replaces
            backbone = Backbone(weights.backbone)
        fitting = _fitting(weights.backbone, weights.file, backbone.body.state_dict())
        backbone.body.load_state_dict(fitting, assign=True)
    return backbone.to(memory_format=torch.channels_last)


def _fitting(name: str, file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the network's names and types; all of them, and no others."""
    stored = {k: v for k, v in _read(file).items() if not k.startswith(_CLASSIFIER)}

    def misfit(reason: str) -> WeightsError:
        return WeightsError(f"weights {file} do not fit {name}{reason}")

    for key, tensor in wanted.items():
        if key.endswith("num_batches_tracked"):
            # State dicts older than this counter are otherwise complete.
            stored.setdefault(key, torch.zeros(tensor.shape, dtype=tensor.dtype))
        if key not in stored:
            raise misfit(f": '{key}' is missing")
        shape, expected = tuple(stored[key].shape), tuple(tensor.shape)
        if shape != expected:
            raise misfit(f": '{key}' has shape {shape}, expected {expected}")
    for key in stored:
        if key not in wanted:
            raise misfit(f", which has no '{key}'")
    return {key: stored[key].to(tensor.dtype) for key, tensor in wanted.items()}


def _read(file: Path) -> dict[str, Tensor]:
    """A plain state dict; nothing in the file is executed."""
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; it loads or it does not
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if out_of_memory(error):
            raise
        raise WeightsError(
            f"weights {file} cannot be read as a plain state dict: {first_line(error, 120)}"
        ) from None
    if not isinstance(stored, Mapping) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise WeightsError(f"weights {file}: expected a plain state dict (names to tensors)")
    return dict(stored)


def _imagenet(backbone: str) -> Path:
    """Torchvision's ImageNet weights (the first edition, of the paper's time), in torch's cache."""
    import torchvision.models

    url: str = torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if file.is_file():
        return file
    before = socket.getdefaulttimeout()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(file.with_name(f"{file.name}.lock")):
            if not file.is_file():
                socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
                digest = file.stem.rsplit("-", 1)[1]
                torch.hub.download_url_to_file(url, str(file), digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"ImageNet weights of {backbone} cannot be downloaded ({first_line(error)}): name a"
            f" state dict with --weights FILE, or put {file.name} into {file.parent}, or train"
            " without with --weights none"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return file
