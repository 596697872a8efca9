"""Who speaks a task's samples, and the balanced division of speakers into folds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fdan.data.task import Samples
from fdan.emotions import EMOTIONS

Indices = NDArray[np.int64]
Speaker = tuple[str, str]
K = TypeVar("K")

TRIES: Final = 200  # divisions, before one that lacks a class in some part is accepted


def speaker_of(samples: Samples, index: int) -> Speaker | None:
    """A sample's speaker by corpus and name; None where the corpus names none.

    Args:
        samples: Samples of one modality.
        index: Index into them.
    """
    name = samples.speakers[index]
    return None if name is None else (samples.corpora[index], name)


def grouped(indices: Iterable[int], key: Callable[[int], K]) -> dict[K, list[int]]:
    """The indices of each key, in the order in which they come.

    Args:
        indices: Indices of samples.
        key: Function from an index to its key.
    """
    groups: dict[K, list[int]] = {}
    for index in indices:
        groups.setdefault(key(index), []).append(index)
    return groups


def group_by_speaker(samples: Samples, among: Iterable[int]) -> dict[Speaker, list[int]]:
    """Indices of each named speaker of each corpus, in a fixed order.

    Args:
        samples: Samples of one modality.
        among: Indices into them.
    """
    speakers = grouped(among, lambda index: speaker_of(samples, index))
    return dict(sorted((name, own) for name, own in speakers.items() if name is not None))


def nameless_corpora(samples: Samples, among: Iterable[int]) -> list[str]:
    """The corpora that name no speaker of some sample.

    Args:
        samples: Samples of one modality.
        among: Indices into them.
    """
    return sorted({samples.corpora[i] for i in among if samples.speakers[i] is None})


def divide_speakers(
    speakers: Mapping[Speaker, Sequence[int]],
    labels: Indices,
    count: int,
    seed: tuple[int, int],
) -> list[list[Speaker]]:
    """Divide speakers into folds with the same share of each emotion, and of all samples, as far as
    the corpora allow it. Each speaker, those with most samples first, goes where the sum of squares
    of the folds' shares grows least.

    Args:
        speakers: Indices of each speaker's samples.
        labels: (N,) emotions of all samples.
        count: Number of folds, at most that of the speakers.
        seed: Seed of the division, and the number of its stream.

    Returns:
        The speakers of each fold, in a fixed order.
    """
    counts = {
        speaker: np.append(np.bincount(labels[own], minlength=len(EMOTIONS)), len(own))
        for speaker, own in speakers.items()
    }
    totals = np.maximum(1, sum(counts.values()))
    rng = np.random.default_rng(seed)
    first: list[list[Speaker]] = []
    for _ in range(TRIES):
        order = [list(speakers)[at] for at in rng.permutation(len(speakers))]
        order.sort(key=lambda speaker: -len(speakers[speaker]))
        folds: list[list[Speaker]] = [[] for _ in range(count)]
        shares = np.zeros((count, len(EMOTIONS) + 1))
        for number, speaker in enumerate(order):
            empty = [fold for fold in range(count) if not folds[fold]]
            possible = empty if len(order) - number == len(empty) else range(count)
            own = counts[speaker] / totals
            growth = np.round(shares @ own, 12)
            fold = min(possible, key=lambda fold: (growth[fold], len(folds[fold]), fold))
            folds[fold].append(speaker)
            shares[fold] += own
        folds = sorted(sorted(fold) for fold in folds)
        first = first or folds
        held = [sum(counts[speaker] for speaker in fold) for fold in folds]
        if all(((totals > own) | (own == 0)).all() for own in held):
            return folds  # whichever fold is held out, each emotion is left for training
    return first


def list_speakers(speakers: Sequence[Speaker]) -> str:
    """The names of the first five speakers, and how many more there are."""
    names = [name for _, name in speakers]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
