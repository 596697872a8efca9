"""Scores of a network that has only speech to go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fdan import device as runtime
from fdan.errors import WeightsError
from fdan.metrics import confusion_matrix, measures
from fdan.model.backbones import Backbone
from fdan.model.network import CLASSES, MODALITIES, Bank, Head, Network
from fdan.run_config import RunConfig
from fdan.training.batches import Ints, balanced_sample
from fdan.training.checkpoint import Checkpoint
from fdan.training.training_data import Domain, TrainingData

_FEATURES_AT_ONCE: Final = 256
_IMAGES_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Scores:
    """WAR, UAR and weighted F1 in 0 .. 1; confusion (7, 7) counts, rows true; probabilities (N, 7)
    in the order of the samples asked for; loss: mean cross-entropy."""

    war: float
    uar: float
    wf1: float
    loss: float
    confusion: Ints
    probabilities: npt.NDArray[np.float64]


def score_checkpoint(
    checkpoint: Checkpoint,
    data: TrainingData,
    samples: Ints,
    device: str | torch.device = "cpu",
) -> Scores:
    """A checkpoint's scores on acoustic samples, numbered as in the split (its test part, say)."""
    where = runtime.choose_device(device)
    data = data.to(where)
    data.check_fits(checkpoint.run.model)
    if checkpoint.backbone_sha256 != data.weights.sha256:
        raise WeightsError(
            "the checkpoint was trained with other backbone weights than this data was loaded with:"
            f" sha256 {checkpoint.backbone_sha256[:12]}, not {data.weights.sha256[:12]}"
        )
    network = restore_network(checkpoint).to(where).eval()
    bank = checkpoint.bank
    bank = None if bank is None else tuple(z.to(where) for z in bank)
    return score_logits(
        predict_logits(network, data.acoustic, samples, bank), data.acoustic.labels[samples]
    )


def restore_network(checkpoint: Checkpoint) -> Network:
    """The checkpoint's network on the CPU; its backbones only if they were trained."""
    with runtime.shapes_only():
        network = build(checkpoint.run)
    try:
        # Copies: the checkpoint stays as it is, whatever happens to the network.
        own = {name: tensor.clone() for name, tensor in checkpoint.group("model").items()}
        network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the checkpoint does not fit its own configuration: {reason}") from None
    return network.to(memory_format=torch.channels_last)


def build(run: RunConfig) -> Network:
    """A network of this configuration with no particular weights."""
    full = run.model.tuning == "full"
    backbones = {m: Backbone(run.model.backbone) for m in MODALITIES} if full else None
    return Network(Head(run.model), backbones)


def make_bank(network: Network, run: RunConfig, data: TrainingData) -> Bank | None:
    """The bank that speech attends to, of the network's present weights (eval mode)."""
    if run.model.context == "none":
        return None
    if run.model.layers == 0:
        return ()
    features = []
    for number, modality in enumerate(MODALITIES):
        domain, train = data.domain(modality), data.train_samples(modality)
        chosen = balanced_sample(train, domain.labels, run.model.bank, run.training.seed, number)
        features.append(pooled_features(network, modality, domain, chosen))
    with torch.inference_mode():
        return network.head.build_bank(*features)


def predict_logits(network: Network, acoustic: Domain, samples: Ints, bank: Bank | None) -> Tensor:
    """(N, 7), on the CPU."""
    with torch.inference_mode():
        found = [
            network.head.predict(some, bank)
            for some in torch.split(
                pooled_features(network, "acoustic", acoustic, samples), _FEATURES_AT_ONCE
            )
        ]
        return torch.cat(found).cpu()


def score_logits(found: Tensor, truth: Ints) -> Scores:
    """Of logits (N, 7) on the CPU and class indices (N,)."""
    log_probabilities = torch.log_softmax(found.double(), dim=1).numpy()
    measured = measures(confusion_matrix(truth, found.argmax(1).numpy(), CLASSES))
    return Scores(
        war=measured.war,
        uar=measured.uar,
        wf1=measured.wf1,
        loss=float(-log_probabilities[np.arange(len(truth)), truth].mean()),
        confusion=measured.confusion,
        probabilities=np.exp(log_probabilities),
    )


def pooled_features(network: Network, modality: str, domain: Domain, samples: Ints) -> Tensor:
    """(N, F) on the domain's device: what the head is given of these samples."""
    index = torch.from_numpy(samples).to(domain.arrays[0].device)
    with torch.inference_mode():
        return torch.cat(
            [
                network.features(modality, domain.take(some))
                for some in torch.split(index, _IMAGES_AT_ONCE if network.backbones else len(index))
            ]
        )
