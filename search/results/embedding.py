"""Where speech and faces lie in the feature space of the best model, as points in a plane: t-SNE of
the features that enter the classifier (paper, figure 5)."""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fdan.data.split import Split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.training.batches import bank_samples
from fdan.training.checkpoint import Checkpoint
from fdan.training.training_data import TrainingData
from fdan.training.validate import pooled_features, restore_network
from search.selection.winner import ChosenModel
from tracking.result import EmbeddedPoint, Embedding

MAX_POINTS: Final = 600  # of both modalities together: more cost seconds and hide each other
MIN_POINTS: Final = 10  # with fewer, neighbourhoods say nothing
_PERPLEXITY: Final = 30.0

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def embedding(chosen: ChosenModel) -> Embedding | None:
    """The acoustic validation part, and as many faces of the training part, where `_lay_out` has
    places for them."""
    data = chosen.data
    found = _embedding(chosen.checkpoint, data.load(chosen.model.run), data.task, data.split)
    # What the folds validate on, the model that follows them was trained on.
    return replace(found, part="training") if found is not None and data.folds else found


def _embedding(
    checkpoint: Checkpoint, data: TrainingData, task: Task, parts: Split
) -> Embedding | None:
    random = np.random.default_rng(0)
    acoustic = np.sort(random.permutation(parts.acoustic_validation)[: MAX_POINTS // 2])
    visual = np.sort(random.permutation(parts.visual_train)[: len(acoustic)])
    places = _lay_out(np.concatenate(_features(checkpoint, data, acoustic, visual)))
    if places is None:
        return None
    samples = {modality: task.samples(modality) for modality in ("acoustic", "visual")}
    chosen = [("acoustic", i) for i in acoustic] + [("visual", i) for i in visual]
    points = tuple(
        EmbeddedPoint(
            round(float(x), 3),
            round(float(y), 3),
            EMOTIONS[samples[modality].labels[index]],
            samples[modality].speakers[index],
            modality,
        )
        for (modality, index), (x, y) in zip(chosen, places, strict=True)
    )
    return Embedding("t-SNE", "validation", points)


def _features(
    checkpoint: Checkpoint, data: TrainingData, acoustic: Indices, visual: Indices
) -> tuple[Floats, Floats]:
    """(A, D) of speech and (V, D) of faces, as they enter the classifier: of speech as a prediction
    has it, of faces as in training, beside speech of the training part, balanced over classes.
    acoustic: (A,) and visual: (V,) numbers of samples."""
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


def _lay_out(z: Floats) -> Floats | None:
    """(N, 2) t-SNE of feature vectors (N, D). Only neighbourhoods mean something, not the places.
    None for fewer than MIN_POINTS vectors, or where they are not finite or all the same."""
    if len(z) < MIN_POINTS or not np.isfinite(z).all() or np.ptp(z, axis=0).max() == 0:
        return None
    # Here: a driver that only starts or continues a study does not wait for it.
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # The neighbours of a point, about: no more than there can be.
    perplexity = min(_PERPLEXITY, (len(z) - 1) / 3)
    # One thread: on 600 points, two are no faster, and on a busy machine each of a thousand steps
    # has them wait for one another. Of 56 points, 30 s of CPU time against 0.2 s (measured).
    with threadpool_limits(1, user_api="openmp"):
        places: Floats = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(z)
    return places if np.isfinite(places).all() else None
