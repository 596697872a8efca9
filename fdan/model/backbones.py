"""Torchvision's networks as feature extractors, and where their weights come from.

Pixels: uint8, (N, H, W, C), C = 3 (RGB faces) or 1 (log-mel images, repeated to three channels).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import pickle
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from fdan import device as runtime
from fdan.errors import WeightsError

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_CLASSIFIER: Final = ("fc.", "classifier.")
_DOWNLOAD_TIMEOUT: Final = 20.0  # seconds without an answer
_NO_WEIGHTS_SEED: Final = 0
_COMPILER: Final = "torch._dynamo"


def _torchvision() -> Any:
    """Its models. Imported where a network is built: a trial on frozen features never needs it."""
    with _compiler_later():
        import torchvision.models

    return torchvision.models


@contextlib.contextmanager
def _compiler_later() -> Iterator[None]:
    """Inside, torchvision is imported without torch's compiler, which takes ten times as long as
    the rest of it. One question is what it imports that for, whether a device is one that the
    compiler knows, and it asks that where boxes are cut out, which nothing here does. So this one
    is answered when it is asked; whatever else is wanted of the compiler has it imported at once.
    """
    if _COMPILER in sys.modules:
        yield
        return
    package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")

    def compiler() -> ModuleType:
        for module in (package, utils):
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
        return importlib.import_module(utils.__name__)

    def is_compile_supported(device: str) -> bool:
        return bool(compiler().is_compile_supported(device))

    def anything_else(name: str) -> Any:
        if name.startswith("__"):  # asked of all modules that there are, by whoever looks for one
            raise AttributeError(name)
        return getattr(compiler(), name)

    vars(utils).update(is_compile_supported=is_compile_supported, __getattr__=anything_else)
    sys.modules.update({package.__name__: package, utils.__name__: utils})
    try:
        yield
    finally:
        for module in (package, utils):
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]


class Backbone(nn.Module):
    """Images to pooled features: (N, H, W, C) uint8 to (N, features) float32.

    The network's final classifier is gone; its feature maps are averaged over the image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        # On the CPU even where the weights are built without storage: nothing loads these two.
        for constant, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(constant, torch.tensor(values, device="cpu"), persistent=False)
        self.body: nn.Module = _torchvision().get_model(name, weights=None)
        if name.startswith("resnet"):
            self.body.fc = nn.Identity()
        else:
            self.body.avgpool = nn.AdaptiveAvgPool2d(1)
            self.body.classifier = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        # Broadcasting repeats a single channel.
        pixels = (images.float() / 255 - self.mean) / self.std
        # A transposed view: the layout (channels last) that convolutions are fastest in.
        out: Tensor = self.body(pixels.permute(0, 3, 1, 2))
        return out


@dataclass(frozen=True)
class Weights:
    """Where a backbone starts from: `file` (None: a seeded random start) and what names its
    contents for good, `sha256`."""

    backbone: str
    file: Path | None
    sha256: str


def find_weights(backbone: str, source: str) -> Weights:
    """`source` is 'imagenet' (torchvision's, downloaded once to torch's cache folder), 'none' or a
    state dict's file. WeightsError if there is no such file or no way to download."""
    if source == "none":
        identity = f"none {backbone} seed {_NO_WEIGHTS_SEED} torch {torch.__version__}"
        return Weights(backbone, None, hashlib.sha256(identity.encode()).hexdigest())
    file = _imagenet(backbone) if source == "imagenet" else Path(source).expanduser()
    if not file.is_file():
        raise WeightsError(
            f"weights '{source}': no such file. Give a state dict's file, 'imagenet' or 'none'"
        )
    try:
        with file.open("rb") as stream:
            return Weights(backbone, file, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError as error:
        raise WeightsError(f"weights {file} cannot be read: {error.strerror}") from None


def build_backbone(weights: Weights) -> Backbone:
    """A new Backbone on the CPU with these weights. WeightsError if they do not fit."""
    if weights.file is None:
        with runtime.seeded(_NO_WEIGHTS_SEED):
            backbone = Backbone(weights.backbone)
    else:
        with runtime.shapes_only():  # no time spent on initial values that the file replaces
            backbone = Backbone(weights.backbone)
        fitting = _fitting(weights.backbone, weights.file, backbone.body.state_dict())
        backbone.body.load_state_dict(fitting, assign=True)
    return backbone.to(memory_format=torch.channels_last)


def _fitting(name: str, file: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors under the network's names and types; all of them, and no others."""
    held = {k: v for k, v in _read(file).items() if not k.startswith(_CLASSIFIER)}
    fitting = {}
    for key, tensor in wanted.items():
        if key not in held and key.endswith("num_batches_tracked"):
            # State dicts older than this counter are otherwise complete.
            fitting[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
            continue
        if key not in held:
            raise WeightsError(f"weights {file} do not fit {name}: '{key}' is missing")
        if held[key].shape != tensor.shape:
            raise WeightsError(
                f"weights {file} do not fit {name}: '{key}' has shape {tuple(held[key].shape)},"
                f" expected {tuple(tensor.shape)}"
            )
        fitting[key] = held[key].to(tensor.dtype)
    for key in held:
        if key not in wanted:
            raise WeightsError(f"weights {file} do not fit {name}, which has no '{key}'")
    return fitting


def _read(file: Path) -> dict[str, Tensor]:
    """A plain state dict; nothing in the file is executed."""
    try:
        if file.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; it loads or it does not
            held = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"weights {file} cannot be read as a plain state dict: {reason[0][:120]}"
        ) from None
    if not isinstance(held, Mapping) or not all(isinstance(v, Tensor) for v in held.values()):
        raise WeightsError(f"weights {file}: expected a plain state dict (names to tensors)")
    return dict(held)


def _imagenet(backbone: str) -> Path:
    """Torchvision's ImageNet weights (the first edition, of the paper's time), in torch's cache."""
    url: str = _torchvision().get_model_weights(backbone).IMAGENET1K_V1.url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[1]
    if file.is_file():
        return file
    before = socket.getdefaulttimeout()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT)
                digest = file.stem.rsplit("-", 1)[1]
                torch.hub.download_url_to_file(url, str(file), digest, progress=False)
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"ImageNet weights of {backbone} cannot be downloaded ({reason}): name a state dict"
            f" with --weights FILE, or put {file.name} into {folder}, or train without with"
            " --weights none"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return file
