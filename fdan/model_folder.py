"""A finished model: `model.safetensors` and `model.json`, enough to name emotions in new speech.

The tensors are the head, both backbones and the bank; the JSON is the configuration, how images
were prepared, and whatever else is needed to say where the model came from. Code plus tensors,
never a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fdan import runtime
from fdan.backbones import Backbone, build_backbone, find_weights
from fdan.checkpoint import Checkpoint, write_text
from fdan.emotions import EMOTIONS
from fdan.errors import FdanError, WeightsError
from fdan.evaluate import restore
from fdan.model import MODALITIES, Bank, Head, Network
from fdan.run_config import RunConfig

TENSORS: Final = "model.safetensors"
FACTS: Final = "model.json"
_FORMAT: Final = 1
_IMAGES_AT_ONCE: Final = 64


@dataclass(frozen=True)
class SpeechModel:
    """A network that has only speech to go by. `facts` is all of model.json."""

    network: Network
    bank: Bank | None
    run: RunConfig
    facts: dict[str, Any]

    def probabilities(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """(N, 7), in the order of EMOTIONS, of log-mel images (N, H, W, 1) prepared as
        `facts` says. A row depends on its own image alone."""
        pixels, found = torch.from_numpy(np.ascontiguousarray(images)), []
        device = self.network.head.classifier.weight.device
        with torch.inference_mode():
            for some in torch.split(pixels, _IMAGES_AT_ONCE):
                features = self.network.features("acoustic", some.to(device))
                logits = self.network.head.predict(features, self.bank)
                found.append(torch.softmax(logits.double(), dim=1).cpu())
        return torch.cat(found).numpy() if found else np.zeros((0, len(EMOTIONS)))


def write_model(folder: Path, checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Make `folder`, whole or not at all, replacing a model that it holds.

    `facts` go into model.json beside the configuration: preparation settings of both modalities,
    the data's fingerprint, the split. A frozen run's backbones are read again from where they came;
    WeightsError if that is no longer the same file.
    """
    network = _with_backbones(checkpoint)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"bank.{i}": z for i, z in enumerate(checkpoint.bank or ())}
    own = {
        "format": _FORMAT,
        "run": checkpoint.run.as_dict(),
        "epoch": checkpoint.epoch,
        "validation_uar": checkpoint.value,
        "backbone_sha256": checkpoint.backbone_sha256,
        "emotions": list(EMOTIONS),
    }
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        safetensors.torch.save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, partial / TENSORS
        )
        write_text(partial / FACTS, json.dumps({**facts, **own}, indent=1) + "\n")
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_model(folder: Path, device: str | torch.device = "cpu") -> SpeechModel:
    """WeightsError if the folder holds no whole model."""
    where = runtime.choose_device(device)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT or facts["emotions"] != list(EMOTIONS):
            raise WeightsError(f"model {folder}: written by another version of fdan-search")
        run = RunConfig.from_mapping(facts["run"], f"model {folder}")
        held = safetensors.torch.load_file(folder / TENSORS)
        with torch.device("meta"):
            network = Network(
                Head(run.model), {m: Backbone(run.model.backbone) for m in MODALITIES}
            )
        network.load_state_dict(_group(held, "model."), assign=True)
        bank = None
        if run.model.context == "bank":
            kept = _group(held, "bank.")
            bank = tuple(kept[str(i)].to(where) for i in range(run.model.layers))
    except WeightsError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or TENSORS).name
        raise WeightsError(f"model {folder}: there is no {missing} in it") from None
    except FdanError as error:
        raise WeightsError(str(error)) from None
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        safetensors.SafetensorError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise WeightsError(f"model {folder} is damaged ({reason})") from None
    network = network.to(memory_format=torch.channels_last).to(where).eval()
    return SpeechModel(network, bank, run, facts)


def _with_backbones(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network from images on."""
    network = restore(checkpoint)
    if network.backbones:
        return network
    model = checkpoint.run.model
    weights = find_weights(model.backbone, model.weights)
    if weights.sha256 != checkpoint.backbone_sha256:
        raise WeightsError(
            f"weights '{model.weights}' have changed since training: sha256 {weights.sha256[:12]},"
            f" trained with {checkpoint.backbone_sha256[:12]}"
        )
    return Network(network.head, {m: build_backbone(weights) for m in MODALITIES})


def _group(held: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in held.items() if k.startswith(prefix)}


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the folder's place. A folder cannot be renamed over a full one."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
