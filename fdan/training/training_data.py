"""Training data of a run: both modalities' arrays on the device, labels, and the split's parts.

The test part is not in here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fdan.errors import DataError
from fdan.metrics import Ints
from fdan.model.backbones import Weights, find_weights
from fdan.run_config import FEATURES, ModelConfig, RunConfig
from fdan.training.frozen_features import Progress, as_tensor, cached_features, cached_maps

if TYPE_CHECKING:
    from fdan.data.split import Split
    from fdan.data.task import Task


@dataclass(frozen=True)
class Domain:
    """All samples of one modality, several stores one after the other."""

    arrays: tuple[Tensor, ...]
    """Images, (N, H, W, C) uint8, maps, (N, H', W', C') float32, or features, (N, F) float32. On
    the CPU the stores stay the memory maps that they are."""
    labels: Ints

    @classmethod
    def from_arrays(cls, arrays: Sequence[npt.NDArray[Any]], labels: Ints) -> Domain:
        """A domain on the CPU. DataError: the stores' images differ in size.

        Args:
            arrays: Arrays, one a store.
            labels: Labels of all samples, store after store.
        """
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) != 1:
            listed = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes))
            raise DataError(
                f"stores of one modality differ in image size ({listed}): prepare them alike"
            )
        assert sum(map(len, arrays)) == len(labels)
        return cls(tuple(as_tensor(array) for array in arrays), labels)

    @property
    def device(self) -> torch.device:
        return self.arrays[0].device

    def to(self, device: torch.device) -> Domain:
        """The same samples on `device`; nothing moves if they are there."""
        if self.device == device:
            return self
        arrays = [array.to(device) for array in self.arrays]
        return replace(self, arrays=(torch.cat(arrays) if len(arrays) > 1 else arrays[0],))

    def select(self, samples: Ints) -> Tensor:
        """Samples by number, (B, ...), on the domain's device."""
        return self.take(torch.from_numpy(samples).to(self.device))

    def take(self, index: Tensor) -> Tensor:
        """Samples by number, for an index that is on the device already: nothing waits."""
        if len(self.arrays) == 1:
            return self.arrays[0][index]
        # Several stores stay apart on the CPU only, where looking at the index costs nothing.
        first = self.arrays[0]
        out = first.new_empty((len(index), *first.shape[1:]))
        start = 0
        for array in self.arrays:
            inside = (index >= start) & (index < start + len(array))
            out[inside] = array[index[inside] - start]
            start += len(array)
        return out


@dataclass(frozen=True)
class TrainingData:
    """Both domains, and the sample numbers of each part."""

    visual: Domain
    acoustic: Domain
    visual_train: Ints
    acoustic_train: Ints
    acoustic_validation: Ints
    weights: Weights  # the backbones' initial ones, also behind what frozen stages computed
    fingerprint: str  # names data and split

    def __post_init__(self) -> None:
        for part, least in (("visual_train", 1), ("acoustic_train", 2), ("acoustic_validation", 1)):
            samples = len(getattr(self, part))
            if samples < least:
                words = part.replace("_", " ")
                raise DataError(f"the {words} part has {samples} sample(s), training needs {least}")

    def to(self, device: torch.device) -> TrainingData:
        """The same data on `device`."""
        return replace(self, visual=self.visual.to(device), acoustic=self.acoustic.to(device))

    def domain(self, modality: str) -> Domain:
        """All samples of 'visual' or 'acoustic'."""
        return {"visual": self.visual, "acoustic": self.acoustic}[modality]

    def train_samples(self, modality: str) -> Ints:
        """The modality's training part."""
        return {"visual": self.visual_train, "acoustic": self.acoustic_train}[modality]

    def divided(self, task: Task, split: Split) -> TrainingData:
        """The same samples, divided otherwise. DataError: a part is empty.

        Args:
            task: The stores that the samples are from.
            split: Split into parts.
        """
        return replace(
            self,
            visual_train=split.visual_train,
            acoustic_train=split.acoustic_train,
            acoustic_validation=split.acoustic_validation,
            fingerprint=_fingerprint(task, split),
        )

    def check_fits(self, model: ModelConfig) -> None:
        """Assert that this data was loaded for this kind of run."""
        assert self.weights.backbone == model.backbone, "loaded for another backbone"
        for domain in (self.visual, self.acoustic):
            array = domain.arrays[0]
            images = "full" if array.dtype == torch.uint8 else "last"
            tuning = "frozen" if array.ndim == 2 else images
            assert tuning == model.tuning, "loaded for another tuning"
            assert tuning != "frozen" or array.shape[1] == FEATURES[model.backbone]


def load_training_data(
    task: Task,
    split: Split,
    run: RunConfig,
    device: torch.device,
    cache: Path,
    progress: Progress | None = None,
) -> TrainingData:
    """Load the task's stores as a run of this kind reads them: images, or what the frozen stages of
    its backbones make of them. The result serves every run with the same backbone, weights and
    tuning.
    DataError: stores do not go together, or a part is empty. WeightsError: no such weights.

    Args:
        task: The stores.
        split: Split into parts.
        run: The kind of run.
        device: Device that the data go to.
        cache: The folder that keeps features and maps; those that it lacks are computed now.
        progress: Callback while a store's features or maps are computed.
    """
    weights = find_weights(run.model.backbone, run.model.weights)

    def domain(modality: str) -> Domain:
        stores, labels = task.stores(modality), task.samples(modality).labels
        arrays: list[npt.NDArray[Any]]
        if run.model.tuning == "frozen":
            arrays = [cached_features(own, weights, cache, device, progress) for own in stores]
            return Domain.from_arrays(arrays, labels).to(device)
        images = Domain.from_arrays([store.images for store in stores], labels)
        if run.model.tuning == "full":
            return images.to(device)
        arrays = [cached_maps(own, weights, cache, device, progress) for own in stores]
        return Domain.from_arrays(arrays, labels).to(device)

    return TrainingData(
        visual=domain("visual"),
        acoustic=domain("acoustic"),
        visual_train=split.visual_train,
        acoustic_train=split.acoustic_train,
        acoustic_validation=split.acoustic_validation,
        weights=weights,
        fingerprint=_fingerprint(task, split),
    )


def frozen_speech(
    task: Task, run: RunConfig, device: torch.device, cache: Path, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """(N, F) features of all acoustic samples by the run's backbone as its weights have it,
    whatever the run trains. WeightsError: no such weights.

    Args:
        task: The stores.
        run: Configuration with the backbone and its weights.
        device: Device that computes what the cache lacks.
        cache: The folder that keeps features.
        progress: Callback while a store's features are computed.
    """
    weights = find_weights(run.model.backbone, run.model.weights)
    stores = task.acoustic
    return np.concatenate([cached_features(s, weights, cache, device, progress) for s in stores])


def _fingerprint(task: Task, split: Split) -> str:
    digest = hashlib.sha256(task.fingerprint.encode())
    for part in (split.visual_train, split.acoustic_train, split.acoustic_validation):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes() + b"|")
    return digest.hexdigest()
