"""Folds: the speakers that the test part leaves, divided so that each of them validates once.

The test part is the one that the same settings have without folds. What is left is divided by
speaker, with the same share of each emotion, and of all samples, in each fold as far as the corpora
allow it. A fold's validation speakers are kept out of its training, their faces too; of a recording
that stands under several speakers, a fold's training has none that its validation has.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from fdan.data.split import (
    LOSO,
    NO_FOLDS,
    TRIES,
    Indices,
    Speaker,
    Split,
    SplitConfig,
    group_by_speaker,
    make_split,
    speaker_of,
    split,
    training_faces,
    without_copies,
)
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.errors import DataError

ENOUGH_SPEAKERS: Final = 8
"""As many speakers for training and validation make one split say something."""

_STREAM: Final = 1  # of random numbers: another one than the split's own


@dataclass(frozen=True)
class FoldsDefault:
    """The folds that a task has where nobody chose them, and why."""

    folds: int | str
    reason: str


def fold_splits(task: Task, config: SplitConfig) -> tuple[Split, ...]:
    """The split of each fold; a pure function of both. All have the same test part. DataError:
    these corpora do not allow such folds; says why and what they allow.

    Args:
        task: The data.
        config: Protocol, fractions, seed and folds.
    """
    assert config.has_folds
    test = split(task, replace(config, folds=NO_FOLDS)).acoustic_test
    samples, rest, speakers = task.samples("acoustic"), *_left_by(task, test)
    if nameless := sorted({samples.corpora[i] for i in rest if speaker_of(samples, i) is None}):
        raise DataError(
            f"folds = {config.folds}: folds are by speaker, and corpus {', '.join(nameless)} names"
            " none: use folds none"
        )
    count = len(speakers) if config.folds == LOSO else int(config.folds)
    if len(speakers) < max(2, count):
        possible = f"at most {len(speakers)}, loso or none" if len(speakers) > 1 else "none"
        raise DataError(
            f"folds = {config.folds}: {len(speakers)} speaker{'s' * (len(speakers) != 1)}"
            f" ({_names(list(speakers))}) left for training and validation: use folds {possible},"
            " or a smaller test part"
        )
    folds = _divide(speakers, samples.labels, count, config.split_seed)
    splits = tuple(_fold_split(task, config, set(fold), test) for fold in folds)
    for number, (fold, division) in enumerate(zip(folds, splits, strict=True), start=1):
        name = f"folds = {config.folds}: fold {number} of {count} (validation speakers"
        _check(task, division, f"{name} {_names(fold)})", rest)
    return splits


def trained_splits(task: Task, config: SplitConfig) -> tuple[Split, ...]:
    """What a trial trains on: the split of each fold, or without folds the one split.

    Args:
        task: The data.
        config: Protocol, fractions, seed and folds.
    """
    return fold_splits(task, config) if config.has_folds else (split(task, config),)


def refit_split(task: Task, config: SplitConfig) -> Split:
    """All folds as one split: what they divide trains, as it does in all folds but one, and
    validates, as it does in that one. The final model trains on it; its own validation would say
    nothing.

    Args:
        task: The data.
        config: Protocol, fractions, seed and folds.
    """
    test = split(task, replace(config, folds=NO_FOLDS)).acoustic_test
    whole = _fold_split(task, config, (), test)
    return replace(whole, acoustic_validation=whole.acoustic_train)


def default_folds(task: Task, config: SplitConfig) -> FoldsDefault:
    """The folds of a task whose user did not choose any: one speaker each where fewer than
    ENOUGH_SPEAKERS are left for training and validation, none otherwise. DataError: the protocol
    is not possible.

    Args:
        task: The data.
        config: Protocol, fractions and seed.
    """
    if config.protocol != "speaker":
        return FoldsDefault(NO_FOLDS, f"protocol {config.protocol} has its own parts")
    _, speakers = _left_by(task, split(task, replace(config, folds=NO_FOLDS)).acoustic_test)
    left = f"{len(speakers)} speakers are left for training and validation"
    if len(speakers) >= ENOUGH_SPEAKERS:
        return FoldsDefault(NO_FOLDS, f"{left}, which is enough for one split")
    try:
        fold_splits(task, replace(config, folds=LOSO))
    except DataError as error:
        return FoldsDefault(NO_FOLDS, f"{left}, but {error}")
    return FoldsDefault(LOSO, f"{left}, fewer than {ENOUGH_SPEAKERS}: each of them validates once")


def validation_speakers(task: Task, division: Split) -> list[str]:
    """Names of a split's validation speakers, in a fixed order.

    Args:
        task: The data.
        division: Split of the task, or of one of its folds.
    """
    speakers = group_by_speaker(task.samples("acoustic"), division.acoustic_validation.tolist())
    return [name for _, name in speakers]


def _left_by(task: Task, test: Indices) -> tuple[list[int], dict[Speaker, list[int]]]:
    """The acoustic samples, and those of each speaker, that train and validate."""
    samples, held_out = task.samples("acoustic"), set(test.tolist())
    others = [index for index in range(len(samples)) if index not in held_out]
    rest = without_copies(samples, others, held_out)
    return rest, group_by_speaker(samples, rest)


def _divide(
    speakers: Mapping[Speaker, Sequence[int]], labels: Indices, count: int, seed: int
) -> list[list[Speaker]]:
    """The speakers of each fold. Each speaker, those with most samples first, goes where the sum of
    squares of the folds' shares of every emotion, and of all samples, grows least."""
    counts = {
        speaker: np.append(np.bincount(labels[own], minlength=len(EMOTIONS)), len(own))
        for speaker, own in speakers.items()
    }
    totals = np.maximum(1, sum(counts.values()))
    rng = np.random.default_rng((seed, _STREAM))
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


def _fold_split(task: Task, config: SplitConfig, fold: Collection[Speaker], test: Indices) -> Split:
    samples, (rest, _) = task.samples("acoustic"), _left_by(task, test)
    validation = [index for index in rest if speaker_of(samples, index) in fold]
    train = [index for index in rest if speaker_of(samples, index) not in fold]
    own_parts = config.protocol == "official"
    held_out = set(fold)
    if not own_parts:
        held_out |= group_by_speaker(samples, test.tolist()).keys()
    visual_train = training_faces(task, held_out, (*validation, *test))
    if own_parts:
        parts = task.samples("visual").parts
        visual_train = [index for index in visual_train if parts[index] != "test"]
    return make_split(visual_train, without_copies(samples, train, validation), validation, test)


def _check(task: Task, division: Split, fold: str, rest: Sequence[int]) -> None:
    samples = task.samples("acoustic")
    trained = set(samples.labels[division.acoustic_train].tolist())
    for emotion in sorted(set(samples.labels[list(rest)].tolist()) - trained):
        own = {speaker_of(samples, i) for i in rest if samples.labels[i] == emotion}
        advice = "use another split_seed, other folds or none"
        if len(own) == 1:
            advice = "use folds none, or add a source: no other speaker has any"
        raise DataError(f"{fold} leaves no {EMOTIONS[emotion]} sample for training: {advice}")
    emotions = len(set(samples.labels[division.acoustic_validation].tolist()))
    if emotions < 2:
        raise DataError(
            f"{fold} validates on {emotions} emotion, at least 2 are needed: use fewer folds, or"
            " none"
        )
    if not len(division.visual_train):
        raise DataError(
            f"{fold} leaves no visual sample for training (the faces of held-out speakers are kept"
            " out): add a visual source, or use folds none"
        )


def _names(speakers: Sequence[Speaker]) -> str:
    names = [name for _, name in speakers]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
