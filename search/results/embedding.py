"""Where speech and faces lie in the feature space of the best model, as points in a plane: t-SNE of
the features that enter the classifier (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fdan.emotions import EMOTIONS
from tracking.result import EmbeddedPoint, Embedding

# Torch and scikit-learn are imported inside: a driver that only starts or continues a study does
# not wait for them.
if TYPE_CHECKING:
    from fdan.data.split import Split
    from fdan.data.task import Task
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.training_data import TrainingData

MAX_POINTS: Final = 600
"""Points, both modalities together: more cost seconds and hide each other."""

MIN_POINTS: Final = 10
"""Points below which neighbourhoods say nothing."""

_PERPLEXITY: Final = 30.0

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def embedding(
    checkpoint: Checkpoint, data: TrainingData, task: Task, parts: Split, seed: int = 0
) -> Embedding | None:
    """The acoustic validation part and as many faces of the training part, as `embed` gives them.

    Args:
        checkpoint: Checkpoint of the model.
        data: Data of the task.
        task: Labels and speakers.
        parts: Split of the task.
        seed: Seed of the draw of faces, and of points where there are too many.
    """
    random = np.random.default_rng(seed)
    acoustic = _draw(parts.acoustic_validation, MAX_POINTS // 2, random)
    visual = _draw(parts.visual_train, len(acoustic), random)
    z_a, z_v = features(checkpoint, data, acoustic, visual)
    emotions: list[int] = []
    speakers: list[str | None] = []
    for modality, chosen in (("acoustic", acoustic), ("visual", visual)):
        samples = task.samples(modality)
        emotions += samples.labels[chosen].tolist()
        speakers += [samples.speakers[index] for index in chosen]
    modalities = ["acoustic"] * len(acoustic) + ["visual"] * len(visual)
    return embed(np.concatenate([z_a, z_v]), emotions, speakers, modalities, seed)


def features(
    checkpoint: Checkpoint, data: TrainingData, acoustic: Indices, visual: Indices
) -> tuple[Floats, Floats]:
    """(A, D) of speech and (V, D) of faces, as they enter the classifier: of speech as a prediction
    has it, of faces as in training, beside speech of the training part, balanced over classes.

    Args:
        checkpoint: Checkpoint of the model.
        data: Data that the samples are in.
        acoustic: (A,) numbers of speech samples.
        visual: (V,) numbers of faces.
    """
    import torch

    from fdan.training.batches import bank_samples
    from fdan.training.validate import pooled_features, restore_network

    network = restore_network(checkpoint).to(data.acoustic.arrays[0].device).eval()
    beside = bank_samples(checkpoint.run, data)["acoustic"]
    with torch.inference_mode():
        x_a = pooled_features(network, "acoustic", data.acoustic, acoustic)
        x_v = pooled_features(network, "visual", data.visual, visual)
        bank = checkpoint.bank
        bank = None if bank is None else tuple(z.to(x_a.device) for z in bank)
        z_a = network.head.encode_speech(x_a, bank)
        out = network.head(x_v, pooled_features(network, "acoustic", data.acoustic, beside))
        z_v = out.aligned[-1][0]
    return z_a.cpu().double().numpy(), z_v.cpu().double().numpy()


def embed(
    z: Floats,
    emotions: Sequence[int],
    speakers: Sequence[str | None],
    modalities: Sequence[str],
    seed: int = 0,
) -> Embedding | None:
    """t-SNE of feature vectors (N, D). Only neighbourhoods mean something, not the places.

    Args:
        z: (N, D) embeddings, of which the seed draws at most MAX_POINTS.
        emotions: (N,) indices into EMOTIONS.
        speakers: (N,) names, None where one is not known.
        modalities: (N,) names, acoustic or visual.
        seed: Seed of the draw and of the t-SNE.

    Returns:
        None for fewer than MIN_POINTS vectors, or where they are not finite or all the same.
    """
    assert len(z) == len(emotions) == len(speakers) == len(modalities)
    chosen = _draw(np.arange(len(z)), MAX_POINTS, np.random.default_rng(seed))
    z = z[chosen]
    if len(z) < MIN_POINTS or not np.isfinite(z).all() or np.ptp(z, axis=0).max() == 0:
        return None
    from sklearn.manifold import TSNE

    # The neighbours of a point, about: no more than there can be.
    perplexity = min(_PERPLEXITY, (len(z) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(z)
    if not np.isfinite(places).all():
        return None
    points = tuple(
        EmbeddedPoint(
            round(float(x), 3),
            round(float(y), 3),
            EMOTIONS[emotions[index]],
            speakers[index],
            modalities[index],
        )
        for index, (x, y) in zip(chosen.tolist(), places, strict=True)
    )
    return Embedding("t-SNE", "validation", points)


def _draw(samples: Indices, most: int, random: np.random.Generator) -> Indices:
    """All of them, or `most` drawn ones; sorted."""
    return np.sort(random.permutation(samples)[:most])
