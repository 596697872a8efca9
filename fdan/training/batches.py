"""Samples of each step: a pure function of (seed, epoch), so that a resumed run needs no
state of a random generator.

An epoch is one pass over the acoustic training part. Visual samples come from passes of their
own, which run on over the epochs: their number has nothing to do with that of the speech samples.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fdan.emotions import MODALITIES
from fdan.metrics import Ints
from fdan.run_config import RunConfig, TrainConfig
from fdan.training.augment import DRAWS, FIRST_DRAWS
from fdan.training.training_data import TrainingData

Floats = npt.NDArray[np.float32]

# Streams of random numbers that must not resemble each other.
_ACOUSTIC, _VISUAL, _BANK, _DRAWS_ACOUSTIC, _DRAWS_VISUAL = range(1, 6)
INITIAL_WEIGHTS: Final = 6
DROPOUT: Final = 7


class ModalityPlan(NamedTuple):
    """One modality's part of an epoch."""

    samples: Ints  # sample numbers, step after step
    sizes: list[int]  # how many of them each step takes
    draws: Floats  # the augmentation's random numbers, one row a sample


def batch_sizes(samples: int, batch: int) -> tuple[int, ...]:
    """Sizes of the batches of one pass.

    Args:
        samples: Number of samples, at least two.
        batch: Size of a full batch. A last sample left alone joins the batch before it, since
            batch normalisation needs two.
    """
    assert samples >= 2 and batch >= 2
    full, rest = divmod(samples, batch)
    if rest == 1:
        return (batch,) * (full - 1) + (batch + 1,)
    return (batch,) * full + (rest,) * (rest > 0)


def plan_epoch(data: TrainingData, training: TrainConfig, epoch: int) -> dict[str, ModalityPlan]:
    """Plan one epoch, by modality.

    Args:
        data: Data with the training parts.
        training: Settings with seed and batch: visual samples in every step, so that a short last
            acoustic batch still meets all emotions; acoustic ones in a full batch.
        epoch: Epoch, from 1.
    """
    batch, seed, visual_train = training.batch, training.seed, data.visual_train
    sizes = batch_sizes(len(data.acoustic_train), batch)
    speech = _pass(data.acoustic_train, seed, _ACOUSTIC, epoch)
    count = batch * len(sizes)
    # Faces are the next `count` of an endless row of reshuffled passes.
    start = (epoch - 1) * count
    first, last = start // len(visual_train), (start + count - 1) // len(visual_train)
    passes = [_pass(visual_train, seed, _VISUAL, number) for number in range(first, last + 1)]
    faces = np.concatenate(passes)[start - first * len(visual_train) :][:count]

    def draws(stream: int, modality: str, count: int) -> Floats:
        random = np.random.default_rng((seed, stream, epoch))
        first = FIRST_DRAWS[modality]
        parts = [(count, first), (count, DRAWS[modality] - first)]
        numbers = np.hstack([random.random(shape, dtype=np.float32) for shape in parts])
        if training.mixup > 0:
            shares = random.beta(training.mixup, training.mixup, count)
            numbers[:, -1] = np.maximum(shares, 1 - shares)  # it stays its own class's, mostly
        return numbers

    return {
        "visual": ModalityPlan(faces, [batch] * len(sizes), draws(_DRAWS_VISUAL, "visual", count)),
        "acoustic": ModalityPlan(
            speech, list(sizes), draws(_DRAWS_ACOUSTIC, "acoustic", len(speech))
        ),
    }


def bank_samples(run: RunConfig, data: TrainingData) -> dict[str, Ints]:
    """Numbers of the bank's samples by modality: of the training part, balanced over classes.

    Args:
        run: Settings with number of samples and seed.
        data: Data that the samples are in.
    """
    model, seed = run.model, run.training.seed
    return {
        m: _balanced_sample(data.train_samples(m), data.domain(m).labels, model.bank, seed, number)
        for number, m in enumerate(MODALITIES)
    }


def _balanced_sample(train: Ints, labels: Ints, each: int, seed: int, modality: int) -> Ints:
    """`each` samples of every class, or all of a class that has fewer. Each modality, by its index
    in MODALITIES, draws from a stream of its own."""
    random = np.random.default_rng((seed, _BANK, modality))
    of_train = labels[train]
    chosen = [np.sort(random.permutation(train[of_train == c])[:each]) for c in np.unique(of_train)]
    return np.concatenate(chosen)


def _pass(samples: Ints, seed: int, stream: int, number: int) -> Ints:
    return np.random.default_rng((seed, stream, number)).permutation(samples)
