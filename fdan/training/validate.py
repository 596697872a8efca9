"""Scores of a network that has only speech to go by."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fdan.errors import WeightsError
from fdan.metrics import Ints, Measures, confusion_matrix, measures
from fdan.model.network import CLASSES, Bank, Network
from fdan.run_config import RunConfig
from fdan.training.batches import bank_samples
from fdan.training.checkpoint import Checkpoint
from fdan.training.training_data import Domain, TrainingData

FEATURES_AT_ONCE: Final = 256
_IMAGES_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Scores(Measures):
    """Measures, and what they were measured on."""

    loss: float  # mean cross-entropy
    probabilities: npt.NDArray[np.float64]  # (N, 7), in the order of the samples asked for


def score_checkpoint(checkpoint: Checkpoint, data: TrainingData, samples: Ints) -> Scores:
    """Score a checkpoint's network on the CPU, from speech alone. WeightsError: `data` was loaded
    with other backbone weights.

    Args:
        checkpoint: Checkpoint of a run on this kind of data.
        data: Its training data.
        samples: Numbers of acoustic samples as in the split, such as its test part.
    """
    data.check_fits(checkpoint.run.model)
    if checkpoint.backbone_sha256 != data.weights.sha256:
        raise WeightsError(
            "the checkpoint was trained with other backbone weights than this data was loaded with:"
            f" sha256 {checkpoint.backbone_sha256[:12]}, not {data.weights.sha256[:12]}"
        )
    acoustic, network = data.acoustic.to(torch.device("cpu")), restore_network(checkpoint).eval()
    logits = predict_logits(network, acoustic, samples, checkpoint.bank)
    return score_logits(logits, acoustic.labels[samples])


def restore_network(checkpoint: Checkpoint, *, trained: bool = False) -> Network:
    """The checkpoint's network on the CPU, with what was trained of its backbones.

    Args:
        checkpoint: The checkpoint.
        trained: Take the weights that training goes on from, where those that are tested are
            their average.
    """
    with torch.device("meta"):  # the weights follow
        network = Network.from_config(checkpoint.run.model)
    try:
        # Copies: the checkpoint stays as it is, whatever happens to the network.
        stored = trained and checkpoint.tensors_under("trained")
        stored = stored or checkpoint.tensors_under("model")
        copies = {name: z.clone() for name, z in stored.items()}
        network.load_state_dict(copies, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"the checkpoint does not fit its own configuration: {reason}") from None
    return network.to(memory_format=torch.channels_last)


def make_bank(network: Network, run: RunConfig, data: TrainingData) -> Bank | None:
    """The bank that speech attends to, of the network's present weights.

    Args:
        network: Network in eval mode, on the data's device.
        run: Settings with context, number of samples and seed.
        data: Data that the bank's samples are in.
    """
    if run.model.context == "none":
        return None
    if run.model.layers == 0:
        return ()
    features = [
        pooled_features(network, modality, data.domain(modality), samples)
        for modality, samples in bank_samples(run, data).items()
    ]
    with torch.inference_mode():
        return network.head.build_bank(*features)


def predict_logits(network: Network, acoustic: Domain, samples: Ints, bank: Bank | None) -> Tensor:
    """Logits from speech alone, (N, 7), on the CPU.

    Args:
        network: Network in eval mode, on the data's device.
        acoustic: All speech.
        samples: (N,) numbers into it.
        bank: Bank that speech attends to; None passes attention by.
    """
    features = pooled_features(network, "acoustic", acoustic, samples)
    with torch.inference_mode():
        batches = torch.split(features, FEATURES_AT_ONCE)
        return torch.cat([network.head.predict(x_AF, bank) for x_AF in batches]).cpu()


def score_logits(logits: Tensor, truth: Ints) -> Scores:
    """All scores of some predictions.

    Args:
        logits: (N, 7), on the CPU.
        truth: (N,) class indices.
    """
    log_probabilities = torch.log_softmax(logits.double(), dim=1).numpy()
    return Scores(
        **vars(measures(confusion_matrix(truth, logits.argmax(1).numpy(), CLASSES))),
        loss=float(-log_probabilities[np.arange(len(truth)), truth].mean()),
        probabilities=np.exp(log_probabilities),
    )


def pooled_features(network: Network, modality: str, domain: Domain, samples: Ints) -> Tensor:
    """Input of the head for these samples: (N, F), on the domain's device.

    Args:
        network: Network in eval mode, on the data's device.
        modality: Modality whose backbone is used.
        domain: That modality's samples.
        samples: (N,) numbers into it.
    """
    index = torch.from_numpy(samples).to(domain.device)
    at_once = _IMAGES_AT_ONCE if network.backbones else len(index)
    with torch.inference_mode():
        batches = torch.split(index, at_once)
        return torch.cat([network.features(modality, domain.take(batch)) for batch in batches])
