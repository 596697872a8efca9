"""Folds: the speakers that the test part leaves, divided so that each of them validates once.

The test part is the one that the same settings have without folds. What is left is divided by
speaker, with the same share of each emotion, and of all samples, in each fold as far as the corpora
allow it. A fold's validation speakers are kept out of its training, their faces too; of a recording
that stands under several speakers, a fold's training has none that its validation has.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fdan.data.outer import OuterFold
from fdan.data.speakers import (
    Indices,
    Speaker,
    divide_speakers,
    group_by_speaker,
    list_speakers,
    nameless_corpora,
    speaker_of,
)
from fdan.data.split import (
    LOSO,
    NO_FOLDS,
    Split,
    SplitConfig,
    make_split,
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
    if nameless := nameless_corpora(samples, rest):
        raise DataError(
            f"folds = {config.folds}: folds are by speaker, and corpus {', '.join(nameless)} names"
            " none: use folds none"
        )
    count = len(speakers) if config.folds == LOSO else int(config.folds)
    if len(speakers) < max(2, count):
        possible = f"at most {len(speakers)}, loso or none" if len(speakers) > 1 else "none"
        raise DataError(
            f"folds = {config.folds}: {len(speakers)} speaker{'s' * (len(speakers) != 1)}"
            f" ({list_speakers([*speakers])}) left for training and validation: use folds"
            f" {possible}, or a smaller test part"
        )
    folds = divide_speakers(speakers, samples.labels, count, (config.split_seed, _STREAM))
    splits = tuple(_fold_split(task, config, set(fold), test) for fold in folds)
    for number, (fold, division) in enumerate(zip(folds, splits, strict=True), start=1):
        name = f"folds = {config.folds}: fold {number} of {count} (validation speakers"
        _check(task, division, f"{name} {list_speakers(fold)})", rest)
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
    ENOUGH_SPEAKERS are left for training and validation, none otherwise. All outer folds of a task
    have the same: those of the one that leaves the fewest speakers. DataError: the protocol is not
    possible.

    Args:
        task: The data.
        config: Protocol, fractions and seed.
    """
    if config.protocol != "speaker":
        return FoldsDefault(NO_FOLDS, f"protocol {config.protocol} has its own parts")
    configs = [replace(config, folds=NO_FOLDS)]
    if config.has_outer:
        count = OuterFold.parse(config.outer).count
        numbers = range(1, count + 1)
        configs = [replace(configs[0], outer=str(OuterFold(n, count))) for n in numbers]
    tests = [split(task, own).acoustic_test for own in configs]
    fewest = min(len(_left_by(task, test)[1]) for test in tests)
    left = f"{fewest} speakers are left for training and validation"
    if fewest >= ENOUGH_SPEAKERS:
        return FoldsDefault(NO_FOLDS, f"{left}, which is enough for one split")
    try:
        for own in configs:
            fold_splits(task, replace(own, folds=LOSO))
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
