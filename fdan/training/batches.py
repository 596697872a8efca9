"""Samples of each step: a pure function of (seed, epoch), so that a resumed run needs no
state of a random generator.

An epoch is one pass over the acoustic training part. Visual samples come from passes of their
own, which run on over the epochs: their number has nothing to do with that of the speech samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.metrics import Ints
from fdan.training.augment import DRAWS

Floats = npt.NDArray[np.float32]

# Streams of random numbers that must not resemble each other.
_ACOUSTIC, _VISUAL, _BANK, _DRAWS_ACOUSTIC, _DRAWS_VISUAL = range(1, 6)
INITIAL_WEIGHTS: Final = 6


@dataclass(frozen=True)
class EpochPlan:
    """One epoch: each modality's samples, step after step; how many of them each step takes; and
    the augmentation's random numbers, one row a sample."""

    acoustic: Ints
    visual: Ints
    acoustic_sizes: tuple[int, ...]
    visual_sizes: tuple[int, ...]
    acoustic_draws: Floats
    visual_draws: Floats


def batch_sizes(samples: int, batch: int) -> tuple[int, ...]:
    """Sizes of the batches of one pass.

    Args:
        samples: Number of samples, at least two.
        batch: Size of a full batch. A last sample left alone joins the batch before it, since
            batch normalisation needs two.
    """
    assert samples >= 2 and batch >= 2
    full, rest = divmod(samples, batch)
    if rest == 0:
        return (batch,) * full
    if rest == 1:
        return (batch,) * (full - 1) + (batch + 1,)
    return (batch,) * full + (rest,)


def plan_epoch(
    visual_train: Ints, acoustic_train: Ints, batch: int, seed: int, epoch: int
) -> EpochPlan:
    """Plan one epoch.

    Args:
        visual_train: Sample numbers of the visual training part.
        acoustic_train: Sample numbers of the acoustic training part.
        batch: Visual samples in every step, so that a short last acoustic batch still meets all
            emotions; acoustic ones in a full batch.
        seed: Seed of the run.
        epoch: Epoch, from 1.
    """
    acoustic_sizes = batch_sizes(len(acoustic_train), batch)
    visual_sizes = (batch,) * len(acoustic_sizes)
    taken = sum(visual_sizes)
    order = _pass(acoustic_train, seed, _ACOUSTIC, epoch)
    return EpochPlan(
        acoustic=order,
        visual=_stretch(visual_train, seed, (epoch - 1) * taken, taken),
        acoustic_sizes=acoustic_sizes,
        visual_sizes=visual_sizes,
        acoustic_draws=_draws(seed, _DRAWS_ACOUSTIC, epoch, (len(order), DRAWS["acoustic"])),
        visual_draws=_draws(seed, _DRAWS_VISUAL, epoch, (taken, DRAWS["visual"])),
    )


def balanced_sample(train: Ints, labels: Ints, each: int, seed: int, modality: int) -> Ints:
    """Choose the same number of samples of every class.

    Args:
        train: Sample numbers to choose from.
        labels: Class of every sample.
        each: Number of samples of a class; of one that has fewer, all.
        seed: Seed of the run.
        modality: Index in MODALITIES; the two draw from streams of their own.
    """
    random = np.random.default_rng((seed, _BANK, modality))
    of_train = labels[train]
    chosen = [np.sort(random.permutation(train[of_train == c])[:each]) for c in np.unique(of_train)]
    return np.concatenate(chosen)


def _pass(samples: Ints, seed: int, stream: int, number: int) -> Ints:
    return np.random.default_rng((seed, stream, number)).permutation(samples)


def _stretch(samples: Ints, seed: int, start: int, length: int) -> Ints:
    """`length` samples from place `start` of the endless row of reshuffled passes."""
    first, last = start // len(samples), (start + length - 1) // len(samples)
    passes = [_pass(samples, seed, _VISUAL, number) for number in range(first, last + 1)]
    offset = start - first * len(samples)
    return np.concatenate(passes)[offset : offset + length]


def _draws(seed: int, stream: int, epoch: int, shape: tuple[int, int]) -> Floats:
    return np.random.default_rng((seed, stream, epoch)).random(shape, dtype=np.float32)
