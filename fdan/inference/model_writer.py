"""Writes a finished model's folder. Apart from reading one: a model that is served carries only the
code that it answers with, and not that of training."""

import json
import os
import shutil
from pathlib import Path

import safetensors.torch

from fdan.emotions import EMOTIONS
from fdan.errors import WeightsError
from fdan.files import write_atomic
from fdan.inference.model_folder import FORMAT, TENSORS
from fdan.inference.model_source import FACTS, Facts
from fdan.machine.rights import write_with_rights
from fdan.model.backbones import LastStage, build_backbone, find_weights
from fdan.model.network import Network
from fdan.training.checkpoint import Checkpoint
from fdan.training.validate import restore_network


def write_model(folder: Path, checkpoint: Checkpoint, facts: Facts) -> None:
    """Make a model's folder, whole or not at all. WeightsError: the backbones' file has changed.

    Args:
        folder: Model folder; a model in it is replaced.
        checkpoint: Checkpoint with network, bank and settings. What was frozen of its backbones
            is read again from where it came.
        facts: Rest of model.json: preparation settings of both modalities, the data's
            fingerprint, the split.
    """
    network = _with_backbones(checkpoint)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"bank.{i}": z for i, z in enumerate(checkpoint.bank or ())}
    own = {
        "format": FORMAT,
        "run": checkpoint.run.as_dict(),
        "epoch": checkpoint.epoch,
        "validation_uar": checkpoint.value,
        "backbone_sha256": checkpoint.backbone_sha256,
        "emotions": list(EMOTIONS),
    }
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_with_rights(partial / TENSORS, lambda path: safetensors.torch.save_file(whole, path))
        write_atomic(partial / FACTS, json.dumps({**facts, **own}, indent=1) + "\n", sync=True)
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _with_backbones(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network from images on."""
    network, model = restore_network(checkpoint), checkpoint.run.model
    if model.tuning == "full":
        return network
    weights = find_weights(model.backbone, model.weights)
    if weights.sha256 != checkpoint.backbone_sha256:
        raise WeightsError(
            f"weights '{model.weights}' have changed since training: sha256 {weights.sha256[:12]},"
            f" trained with {checkpoint.backbone_sha256[:12]}"
        )
    backbones = {m: build_backbone(weights) for m in model.modalities}
    for modality, stage in network.backbones.items():
        assert isinstance(stage, LastStage)
        backbones[modality].load_last_stage(stage)
    return Network(network.head, backbones)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the folder's place: a folder cannot be renamed over one that is not empty."""
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
