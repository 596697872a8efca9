"""Everything that decides a training run, apart from its data: one flat set of names.

Read by command lines, so nothing here imports torch, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fdan.config import Above, Config, check_names, option
from fdan.emotions import MODALITIES
from fdan.errors import ConfigError

# Backbones, and their features after global average pooling.
FEATURES: Final = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "vgg16": 512, "vgg19": 512}


@dataclass(frozen=True)
class ModelConfig(Config):
    """The network. Backbone and its fine-tuning are the paper's; the bottleneck's width and the
    shared classifier come from the authors' released code, the paper being silent on them. Neither
    has dropout."""

    system: str = option(
        "fdan",
        "fdan, or speech: the acoustic backbone alone, without faces, attention and LMMD",
        choices=("fdan", "speech"),
    )
    backbone: str = option("resnet34", "torchvision network", choices=tuple(FEATURES))
    weights: str = option("imagenet", "what it starts from: imagenet, none, or a state dict's file")
    tuning: str = option(
        "full",
        "train all of it, of the backbones only the last stage (a ResNet's layer4, a VGG's last"
        " block), or keep them frozen",
        choices=("full", "last", "frozen"),
    )
    width: int = option(256, "features after the bottleneck (d)", low=1)
    layers: int = option(1, "cross-attention layers; 0 is FDAN_1", low=0, high=16)
    heads: int = option(1, "attention heads; must divide the width", low=1)
    ffn: int = option(2, "feed-forward network's hidden width, in widths", low=1, high=16)
    dropout: float = option(
        0.0, "share of pooled features that a training step leaves out", low=0.0, high=0.9
    )
    context: str = option(
        "bank",
        "what speech attends to when tested: training faces, or nothing",
        choices=("bank", "none"),
    )
    bank: int = option(8, "training samples of each class and modality in the bank", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"heads = {self.heads} does not divide width = {self.width}")
        if self.system == "speech":
            object.__setattr__(self, "layers", 0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the network is trained on."""
        return MODALITIES if self.system == "fdan" else ("acoustic",)


@dataclass(frozen=True)
class KernelConfig(Config):
    """The kernel of Eq. 8: a sum of Gaussians exp(-d^2 / b_k), which the paper leaves open.

    Bandwidths are b_k = base * scale * ratio ** (k - kernels // 2) for k = 0 .. kernels - 1. The
    defaults are those of DSAN (Zhu et al. 2020), which the authors' released code uses.
    """

    kernels: int = option(5, "Gaussians in the LMMD's kernel", low=1, high=64)
    ratio: float = option(2.0, "ratio of neighbouring bandwidths", low=1.0, high=100.0)
    scale: float = option(1.0, "factor on all bandwidths", low=Above(0.0))
    bandwidth: float | None = option(
        None, "fixed base bandwidth; none: each batch's mean squared distance", low=Above(0.0)
    )


@dataclass(frozen=True)
class TrainConfig(Config):
    """The loss's trade-off, the optimizer and the length of a run.

    alpha is the first of the paper's candidates (1e-3, 1e-4, 1e-5), the batch is the paper's; lr
    and decay are those of the authors' released code (decay between the paper's 1e-3 and 1e-4).
    The paper's momentum, 0.99, and its 300 epochs are for `full` on a GPU; 0.9 is SGD's usual
    choice and suits shorter runs.
    """

    alpha: float = option(1e-3, "weight of the LMMD in the loss (Eq. 9); 0 is FDAN_2", low=0.0)
    lr: float = option(1e-3, "the head's learning rate, at its highest", low=Above(0.0))
    backbone_rate: float = option(
        0.1,
        "the learning rate of what is trained of the backbones, in parts of the head's",
        low=Above(0.0),
        high=1.0,
    )
    optimizer: str = option("sgd", "sgd, or adamw", choices=("sgd", "adamw"))
    schedule: str = option(
        "authors",
        "of the learning rate: the authors' slow fall, or one cycle over all epochs (a tenth of"
        " them up, then down to 0)",
        choices=("authors", "one-cycle"),
    )
    momentum: float = option(0.9, "SGD's momentum", low=0.0, high=0.999)
    decay: float = option(5e-4, "weight decay", low=0.0)
    smoothing: float = option(0.0, "label smoothing of both cross-entropies", low=0.0, high=0.5)
    mixup: float = option(
        0.0, "each sample is mixed with another by Beta(mixup, mixup); 0: none", low=0.0, high=2.0
    )
    average: float = option(
        0.0,
        "decay, a step, of the running average of weights that is tested and kept; 0: the last"
        " weights are",
        low=0.0,
        high=0.9999,
    )
    batch: int = option(32, "samples of each modality in a step", low=2)
    epochs: int = option(50, "passes over the acoustic training part", low=1)
    augment: bool = option(
        True,
        "random masks, shifts and flips of images (full tuning), or of the maps that enter the last"
        " stage (last), where only large ones are shifted",
    )
    speech_moves: bool = option(
        False,
        "beside the masks, shifts of speech in time and frequency, louder or softer (full tuning"
        " only)",
    )
    seed: int = option(0, "of initial weights, order, augmentation and bank", low=0)


RUN_CONFIGS: Final[tuple[type[Config], ...]] = (ModelConfig, KernelConfig, TrainConfig)


@dataclass(frozen=True)
class RunConfig:
    """Model, kernel and training; their fields have names that are unique over the three."""

    model: ModelConfig = field(default_factory=ModelConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str = "configuration") -> RunConfig:
        """Build a run's configuration, as Config.from_mapping does.

        Args:
            values: Values of all three parts, by name.
            where: Origin of the values, for messages.
        """
        check_names(values, [name for c in RUN_CONFIGS for name in c.__dataclass_fields__], where)
        return cls(
            ModelConfig(**ModelConfig.pick(values)),
            KernelConfig(**KernelConfig.pick(values)),
            TrainConfig(**TrainConfig.pick(values)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Flat names and values, ready for JSON; `from_mapping` reads it back."""
        return {**self.model.as_dict(), **self.kernel.as_dict(), **self.training.as_dict()}
