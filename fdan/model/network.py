"""The Feature Distribution Adaptation Network (paper, Eq. 1-9), from images to logits.

Shapes: V visual samples, A acoustic samples, M samples in the bank, F pooled backbone features,
D width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fdan.emotions import EMOTIONS
from fdan.model.attention import CrossAttention
from fdan.model.backbones import Backbone, LastStage
from fdan.model.local_mmd import Kernel, lmmd
from fdan.run_config import FEATURES, KernelConfig, ModelConfig

CLASSES = len(EMOTIONS)


class Standardise(nn.Module):
    """(x - mean) / std of each feature; mean and std are saved with the weights. A feature that
    never varied becomes 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, x_NF: Tensor) -> None:
        """Take mean and standard deviation from these samples."""
        x_NF = x_NF.double()
        std = x_NF.std(0, correction=0)
        self.mean.copy_(x_NF.mean(0))
        self.std.copy_(torch.where(std > 0, std, torch.inf))

    def forward(self, x_NF: Tensor) -> Tensor:
        return (x_NF - self.mean) / self.std


class Output(NamedTuple):
    """Both modalities together."""

    logits_v: Tensor  # (V, C)
    logits_a: Tensor  # (A, C)
    aligned: tuple[tuple[Tensor, Tensor], ...]  # (Z_v, Z_a), which the LMMD compares, of a layer


class Losses(NamedTuple):
    """Eq. 9 and its three terms, scalars."""

    total: Tensor
    acoustic: Tensor
    visual: Tensor
    lmmd: Tensor  # the sum over layers, before alpha


Bank = tuple[Tensor, ...]
"""Z_v^0 .. Z_v^(l-1) of the bank's faces, (M, D) each: what layer i's speech attends to."""


class Head(nn.Module):
    """Pooled features to logits: bottleneck, cross-attention layers, one classifier shared by
    both modalities."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        features, modalities = FEATURES[config.backbone], config.modalities
        self.dropout = nn.Dropout(config.dropout)
        # Frozen features come as the backbone left them; a tuned one finds its own scale.
        self.standardise = nn.ModuleDict(
            {m: Standardise(features) for m in modalities} if config.tuning == "frozen" else {}
        )
        self.bottleneck = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(features, config.width), nn.ReLU()) for m in modalities}
        )
        self.layers = nn.ModuleList(
            CrossAttention(config.width, config.heads, config.ffn) for _ in range(config.layers)
        )
        self.classifier = nn.Linear(config.width, CLASSES)

    def fit(self, modality: str, x_NF: Tensor) -> None:
        """Standardise frozen features by the modality's training part from now on."""
        standardise = self.standardise[modality]
        assert isinstance(standardise, Standardise)
        standardise.fit(x_NF)

    def forward(self, x_VF: Tensor, x_AF: Tensor) -> Output:
        """Both modalities together, as in training. Without layers the LMMD compares the
        bottleneck's output (FDAN_1)."""
        pairs = self._pass_through(x_VF, x_AF)
        z_v, z_a = pairs[-1]
        return Output(self.classifier(z_v), self.classifier(z_a), tuple(pairs[1:] or pairs))

    def build_bank(self, x_VF: Tensor, x_AF: Tensor) -> Bank:
        """The faces' features that enter each layer when faces and speech pass through together."""
        return tuple(z_v for z_v, _ in self._pass_through(x_VF, x_AF)[:-1])

    def predict(self, x_AF: Tensor, bank: Bank | None) -> Tensor:
        """Logits (A, C) from speech alone. Each row depends on its own sample and the bank that it
        attends to; None passes attention by."""
        logits: Tensor = self.classifier(self.encode_speech(x_AF, bank))
        return logits

    def encode_speech(self, x_AF: Tensor, bank: Bank | None) -> Tensor:
        """Input of the classifier in `predict`, (A, D); the arguments are the same."""
        z_a = self._narrow("acoustic", x_AF)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, CrossAttention)
            z_a = layer.acoustic_only(z_a, None if bank is None else bank[i])
        return z_a

    def predict_faces(self, x_VF: Tensor) -> Tensor:
        """Logits (V, C) from faces alone. They pass attention by: there is no bank of speech."""
        z_v = self._narrow("visual", x_VF)
        for layer in self.layers:
            assert isinstance(layer, CrossAttention)
            z_v = layer.visual.transform(z_v, None)
        logits: Tensor = self.classifier(z_v)
        return logits

    def _pass_through(self, x_VF: Tensor, x_AF: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both modalities behind the bottleneck and behind each layer."""
        pairs = [(self._narrow("visual", x_VF), self._narrow("acoustic", x_AF))]
        for layer in self.layers:
            pairs.append(layer(*pairs[-1]))
        return pairs

    def _narrow(self, modality: str, x_NF: Tensor) -> Tensor:
        if self.standardise:
            x_NF = self.standardise[modality](x_NF)
        z_ND: Tensor = self.bottleneck[modality](self.dropout(x_NF))
        return z_ND


class Network(nn.Module):
    """A head and, unless features were computed beforehand, a backbone for each modality, or the
    last stage of one where the maps before it were."""

    def __init__(self, head: Head, backbones: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.head = head
        self.backbones = nn.ModuleDict(dict(backbones or {}))

    @classmethod
    def from_config(cls, config: ModelConfig, *, images: bool = False) -> Network:
        """A network without particular weights, with what is trained of the backbones.

        Args:
            config: The network's settings.
            images: Whether it has whole backbones, whatever of them is trained.
        """
        head = Head(config)
        if config.tuning == "frozen" and not images:
            return cls(head)
        backbones = {m: Backbone(config.backbone) for m in config.modalities}
        if config.tuning == "last" and not images:
            return cls(head, {m: LastStage(whole) for m, whole in backbones.items()})
        return cls(head, backbones)

    def features(self, modality: str, inputs: Tensor) -> Tensor:
        """Pooled features, (N, F), of what the run reads: images, (N, H, W, C) uint8, or maps where
        the backbones are last stages. Without backbones the inputs are the features."""
        if not self.backbones:
            return inputs
        x_NF: Tensor = self.backbones[modality](inputs)
        return x_NF

    def forward(self, visual: Tensor, acoustic: Tensor) -> Output:
        out: Output = self.head(
            self.features("visual", visual), self.features("acoustic", acoustic)
        )
        return out


def fdan_loss(
    out: Output,
    y_V: Tensor,
    y_A: Tensor,
    alpha: float | Tensor,
    kernel: KernelConfig | Kernel,
    smoothing: float = 0.0,
) -> Losses:
    """Eq. 9: both cross-entropies, plus alpha times the LMMD summed over the layers' outputs.

    Args:
        out: Output of the network.
        y_V: Classes of the faces, (V,); of faces that were mixed, (V, C) shares of each.
        y_A: Classes of the speech, likewise.
        alpha: With 0 (FDAN_2) the LMMD is measured but takes no part in the gradient. The device's
            work need not be finished to use a tensor.
        kernel: Kernel of the LMMD.
        smoothing: Share of each target that all classes get alike.
    """
    acoustic = cross_entropy(out.logits_a, y_A, label_smoothing=smoothing)
    visual = cross_entropy(out.logits_v, y_V, label_smoothing=smoothing)
    total = acoustic + visual
    if isinstance(alpha, Tensor):
        # No gradient where alpha is 0; 0 times one would be nan where it is.
        aligned = [
            (torch.where(alpha > 0, z_v, z_v.detach()), torch.where(alpha > 0, z_a, z_a.detach()))
            for z_v, z_a in out.aligned
        ]
        discrepancy = _discrepancy(aligned, y_V, y_A, kernel)
        total = torch.where(alpha > 0, total + alpha * discrepancy, total)
    else:
        with torch.set_grad_enabled(alpha > 0 and torch.is_grad_enabled()):
            discrepancy = _discrepancy(out.aligned, y_V, y_A, kernel)
        if alpha > 0:
            total = total + alpha * discrepancy
    return Losses(total, acoustic, visual, discrepancy)


def speech_loss(head: Head, x_AF: Tensor, y_A: Tensor, smoothing: float) -> Losses:
    """The cross-entropy of speech alone, as Losses.

    Args:
        head: Head of a network without faces.
        x_AF: Pooled features of the speech.
        y_A: Classes, or shares of each, as in `fdan_loss`.
        smoothing: As in `fdan_loss`.
    """
    logits = head.predict(x_AF, None)
    loss = cross_entropy(logits, y_A, label_smoothing=smoothing)
    none = torch.zeros_like(loss)
    return Losses(loss, loss, none, none)


def _discrepancy(
    aligned: Sequence[tuple[Tensor, Tensor]],
    y_V: Tensor,
    y_A: Tensor,
    kernel: KernelConfig | Kernel,
) -> Tensor:
    return torch.stack([lmmd(z_v, z_a, y_V, y_A, CLASSES, kernel) for z_v, z_a in aligned]).sum()
