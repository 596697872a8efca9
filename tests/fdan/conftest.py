"""Training data made of numbers: no files, no media. Each fixture is a function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from fdan.model.backbones import Weights
    from fdan.run_config import RunConfig
    from fdan.training.training_data import Domain, TrainingData

# Torch is imported inside: tests of the data side start without it.

SEVEN = 7


def _frozen_data(
    seed: int = 0, signal: float = 0.12, acoustic: int = 84, visual: int = 105
) -> TrainingData:
    """Features of resnet18's size around seven class centres; two thirds of the speech trains."""
    from fdan.model.backbones import Weights
    from fdan.training.training_data import Domain

    random = np.random.default_rng(seed)
    centres = random.normal(size=(SEVEN, 512))
    made = {}
    for modality, count in (("visual", visual), ("acoustic", acoustic)):
        labels = np.arange(count) % SEVEN
        noise = random.normal(size=(count, 512))
        features = 3 + 2 * (signal * centres[labels] + noise)
        made[modality] = Domain.from_arrays([features.astype(np.float32)], labels)
    return _parts(made, Weights("resnet18", None, "synthetic"))


def _image_data(
    seed: int = 0, acoustic: int = 21, visual: int = 24, size: int = 32
) -> TrainingData:
    """Noise with a bright bar at the height of the class; each modality in two stores."""
    from fdan.model.backbones import find_weights
    from fdan.training.training_data import Domain

    random = np.random.default_rng(seed)
    made = {}
    for modality, count, channels in (("visual", visual, 3), ("acoustic", acoustic, 1)):
        labels = np.arange(count) % SEVEN
        images = random.integers(0, 100, (count, size, size, channels), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4] += 120
        made[modality] = Domain.from_arrays([images[:9], images[9:]], labels)
    return _parts(made, find_weights("resnet18", "none"))


def _map_data(**sizes: int) -> TrainingData:
    """The maps of `_image_data` that enter resnet18's last stage."""
    from dataclasses import replace

    import torch

    from fdan.model.backbones import build_backbone

    data = _image_data(**sizes)
    backbone = build_backbone(data.weights).eval()
    domains = {}
    for modality in ("visual", "acoustic"):
        domain = data.domain(modality)
        with torch.no_grad():
            maps = tuple(backbone.maps(images).contiguous() for images in domain.arrays)
        domains[modality] = replace(domain, arrays=maps)
    return replace(data, **domains)


def _data_of(tuning: str, **sizes: int) -> TrainingData:
    """Data as a run of this tuning reads them."""
    make = {"frozen": _frozen_data, "last": _map_data, "full": _image_data}[tuning]
    return make(**sizes)


def _parts(made: dict[str, Domain], weights: Weights) -> TrainingData:
    from fdan.training.training_data import TrainingData

    speech = np.arange(len(made["acoustic"].labels))
    cut = 2 * len(speech) // 3
    return TrainingData(
        visual=made["visual"],
        acoustic=made["acoustic"],
        visual_train=np.arange(len(made["visual"].labels)),
        acoustic_train=speech[:cut],
        acoustic_validation=speech[cut:],
        weights=weights,
        fingerprint="synthetic",
    )


def _run_of(**settings: object) -> RunConfig:
    """A small run; frozen unless told otherwise."""
    from fdan.run_config import RunConfig

    base: dict[str, object] = {
        "backbone": "resnet18",
        "weights": "none",
        "tuning": "frozen",
        "width": 16,
        "batch": 8,
        "epochs": 4,
        "lr": 0.01,
        "bank": 2,
    }
    return RunConfig.from_mapping(base | settings)


def _write_model(folder: Path, facts: dict[str, Any] | None = None, **settings: object) -> Path:
    """A model that was never trained, with a bank and features' scales of its own, for images of 32
    pixels: its folder."""
    import torch

    from fdan.device import seeded
    from fdan.inference.model_writer import write_model
    from fdan.media.faces import FaceSettings
    from fdan.media.pixels import settings_to_dict
    from fdan.media.spectrogram import SpectrogramSettings
    from fdan.model.backbones import find_weights
    from fdan.model.network import Network
    from fdan.run_config import FEATURES
    from fdan.training.checkpoint import Checkpoint

    run = _run_of(**settings)
    model = run.model
    with seeded(3):
        network = Network.from_config(run.model)
        features = torch.rand(40, FEATURES[model.backbone]) * 2
        for modality in network.head.standardise:
            network.head.fit(modality, features)
        bank = (
            network.head.build_bank(features[:14], features[20:]) if model.context == "bank" else ()
        )
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"bank.{i}": z.detach() for i, z in enumerate(bank)}
    weights = find_weights(model.backbone, "none")
    checkpoint = Checkpoint(run, 1, 1, (0.5,), weights.sha256, "no data", tensors)
    prepared = {
        "acoustic": settings_to_dict(SpectrogramSettings(spectrogram_size=32)),
        "visual": settings_to_dict(FaceSettings(face_size=32)),
    }
    write_model(folder, checkpoint, {"preparation": prepared, **(facts or {})})
    return folder


@pytest.fixture(scope="session")
def new_model() -> Callable[..., Path]:
    return _write_model


@pytest.fixture(scope="session")
def frozen_data() -> Callable[..., TrainingData]:
    return _frozen_data


@pytest.fixture(scope="session")
def image_data() -> Callable[..., TrainingData]:
    return _image_data


@pytest.fixture(scope="session")
def map_data() -> Callable[..., TrainingData]:
    return _map_data


@pytest.fixture(scope="session")
def data_of() -> Callable[..., TrainingData]:
    return _data_of


@pytest.fixture(scope="session")
def run_of() -> Callable[..., RunConfig]:
    return _run_of


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """These tensors are small: threads that wait for each other cost more than they bring."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
