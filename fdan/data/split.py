"""Division into training, validation and test part: the three protocols.

`speaker`: train, validation and test speakers are disjoint, and the faces of held-out speakers
are kept out of training, too. `paper`: of each emotion 8/10 of the acoustic samples train and
2/10 test, all faces train (section 3.2); validation comes out of the training part. `official`:
the corpus's own parts.

Whatever the protocol, a recording that a corpus holds twice never lies on both sides.

The test part may be an outer fold (fdan/data/outer.py). What it leaves may be divided into folds
(fdan/data/folds.py).
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fdan.config import Above, Config, option
from fdan.data.outer import NO_OUTER, OuterFold, outer_speakers, parse_outer
from fdan.data.speakers import (
    TRIES,
    Indices,
    Speaker,
    group_by_speaker,
    grouped,
    list_speakers,
    nameless_corpora,
    speaker_of,
)
from fdan.data.task import Samples, Task
from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, DataError

AUTO_FOLDS: Final = "auto"
NO_FOLDS: Final = "none"
LOSO: Final = "loso"


def _parse_folds(text: str) -> int | str:
    if text in (AUTO_FOLDS, NO_FOLDS, LOSO):
        return text
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 2:
            return number
    raise ValueError("expected auto, none, loso (leave one speaker out) or a whole number from 2")


@dataclass(frozen=True)
class SplitConfig(Config):
    """Settings of the division."""

    protocol: str = option(
        "speaker",
        "speaker: disjoint speakers; paper: 8/10 and 2/10 of each emotion; official: the corpus's"
        " own parts",
        choices=("speaker", "paper", "official"),
    )
    validation: float = option(
        0.25,
        "validation part: of all acoustic samples (speaker), or of the training part (paper, and"
        " official where the corpus has none)",
        low=Above(0),
        high=0.8,
    )
    test: float | None = option(
        None,
        "test part of all acoustic samples: none means 0.25 (speaker) or 0.2 (paper); not for"
        " official",
        low=Above(0),
        high=0.8,
    )
    split_seed: int = option(0, "seed of the division", low=0)
    folds: int | str = option(
        AUTO_FOLDS,
        "of a search. none: one split; K: the speakers outside the test part in K folds, each of"
        " which validates once; loso: leave one speaker out; auto: loso where fewer than eight"
        " speakers are left for training and validation, else none",
        "auto|none|K|loso",
        parse=_parse_folds,
    )
    outer: str = option(
        NO_OUTER,
        "I/K: the test part is the I-th of K outer folds of all speakers, one of those that"
        " --nested searches one after another",
        "none|I/K",
        parse=parse_outer,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol == "paper" and self.has_folds:
            raise ConfigError(
                f"folds = {self.folds}: folds keep speakers apart, and protocol paper has each of"
                " them in all parts: use protocol speaker, or folds none"
            )
        if self.protocol != "speaker" and self.has_outer:
            kind = "a test part of its own" if self.protocol == "official" else "them in all parts"
            raise ConfigError(
                f"outer = {self.outer}: outer folds divide the speakers, and protocol"
                f" {self.protocol} has {kind}: use protocol speaker, or outer none"
            )
        if self.has_outer and self.test is not None:
            raise ConfigError(
                f"test = {self.test}: outer = {self.outer} is the test part: leave one of them out"
            )
        if self.protocol == "official" and self.test is not None:
            raise ConfigError(f"test = {self.test}: protocol official has a test part of its own")
        if self.protocol == "speaker" and self.validation + self.test_fraction >= 1:
            raise ConfigError(
                f"validation = {self.validation} and test = {self.test_fraction}: nothing is left"
                " for training"
            )

    @property
    def has_folds(self) -> bool:
        """Whether a trial trains several folds. Not yet where that is for a search to decide."""
        return self.folds not in (AUTO_FOLDS, NO_FOLDS)

    @property
    def has_outer(self) -> bool:
        """Whether the test part is an outer fold."""
        return self.outer != NO_OUTER

    @property
    def test_fraction(self) -> float:
        if self.has_outer:
            return 1 / OuterFold.parse(self.outer).count
        if self.test is not None:
            return self.test
        return 0.2 if self.protocol == "paper" else 0.25  # section 3.2: 2/10


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted index arrays into Task.samples(modality).

    Nothing that a search sees comes from `acoustic_test`.
    """

    visual_train: Indices
    acoustic_train: Indices
    acoustic_validation: Indices
    acoustic_test: Indices


@dataclass(frozen=True)
class PartCount:
    """One part of a split, counted."""

    part: str
    total: int
    emotions: dict[str, int]  # samples of each of EMOTIONS, in that order
    speakers: dict[str, int]  # samples of each speaker, by name; empty where the corpora name none


def split(task: Task, config: SplitConfig) -> Split:
    """Divide a task's samples, without folds; a pure function of both. DataError: these corpora do
    not allow the protocol; says why and which one they allow.

    Args:
        task: The data.
        config: Protocol, fractions and seed.
    """
    acoustic, visual = task.samples("acoustic"), task.samples("visual")
    rng = np.random.default_rng(config.split_seed)
    divide = {"speaker": _by_speaker, "paper": _as_paper, "official": _officially}
    train, validation, test, held_out = divide[config.protocol](acoustic, config, rng)
    # A recording that stands twice stays in the part furthest to the right alone.
    validation = without_copies(acoustic, validation, test)
    # The paper trains on all faces, whoever speaks in the test part.
    held_back = () if config.protocol == "paper" else (*validation, *test)
    train = without_copies(acoustic, train, (*validation, *test))
    visual_train = training_faces(task, held_out, held_back)
    if config.protocol == "official":
        visual_train = [i for i in visual_train if visual.parts[i] in ("train", None)]
    division = make_split(visual_train, train, validation, test)
    _check(task, config, division)
    return division


def make_split(*parts: Iterable[int]) -> Split:
    """A split of sorted indices. parts: in the order of its fields."""
    return Split(*(np.array(sorted(part), dtype=np.int64) for part in parts))


def training_faces(
    task: Task, held_out: Collection[Speaker], held_back: Iterable[int]
) -> list[int]:
    """Visual samples that are neither of held-out speakers nor the film of held-back speech.

    Args:
        task: The data.
        held_out: Speakers, by corpus and name.
        held_back: Acoustic samples.
    """
    acoustic, visual = task.samples("acoustic"), task.samples("visual")
    # A film that serves both modalities, perhaps under another corpus's name or none of a speaker.
    films = {acoustic.contents[i] for i in held_back}
    return [
        index
        for index in range(len(visual))
        if speaker_of(visual, index) not in held_out and visual.contents[index] not in films
    ]


def describe(task: Task, split: Split) -> list[PartCount]:
    """Count each part's samples by emotion and by speaker, for a table.

    Args:
        task: The data.
        split: Division of the task.
    """
    counted = []
    for part, modality, indices in (
        ("visual train", "visual", split.visual_train),
        ("acoustic train", "acoustic", split.acoustic_train),
        ("acoustic validation", "acoustic", split.acoustic_validation),
        ("acoustic test", "acoustic", split.acoustic_test),
    ):
        samples = task.samples(modality)
        labels = np.bincount(samples.labels[indices], minlength=len(EMOTIONS)).tolist()
        names = sorted(name for i in indices if (name := samples.speakers[i]) is not None)
        emotions = dict(zip(EMOTIONS, labels, strict=True))
        counted.append(PartCount(part, len(indices), emotions, dict(Counter(names))))
    return counted


_Parts = tuple[Sequence[int], Sequence[int], Sequence[int], frozenset[Speaker]]


def _by_speaker(samples: Samples, config: SplitConfig, rng: np.random.Generator) -> _Parts:
    outer: list[Speaker] = []
    if config.has_outer:
        outer = outer_speakers(samples, config.outer, config.split_seed)
    speakers = group_by_speaker(samples, range(len(samples)))
    if nameless := nameless_corpora(samples, range(len(samples))):
        possible = ["paper"] + ["official"] * ({"train", "test"} <= set(samples.parts))
        raise DataError(
            f"corpus {', '.join(nameless)} names no speakers, so protocol 'speaker' cannot divide"
            f" it: use --protocol {' or '.join(possible)}"
        )
    if len(speakers) < 3:
        raise DataError(
            f"protocol 'speaker' needs at least 3 acoustic speakers, here is {len(speakers)}"
            f" ({list_speakers([*speakers])}): add a source or use --protocol paper"
        )
    classes = {name: set(samples.labels[own].tolist()) for name, own in speakers.items()}
    everything = set.union(*classes.values())
    fallback: list[list[Speaker]] | None = None
    for _ in range(TRIES):
        order = [list(speakers)[at] for at in rng.permutation(len(speakers))]
        test = outer or _chosen(order, speakers, config.test_fraction * len(samples), leave=2)
        order = [speaker for speaker in order if speaker not in test]
        validation = _chosen(order, speakers, config.validation * len(samples), leave=1)
        train = [speaker for speaker in order if speaker not in validation]
        parts = [train, validation, test]
        present = [set.union(*(classes[speaker] for speaker in part)) for part in parts]
        if all(part == everything for part in present):
            break
        if fallback is None and present[0] == everything:
            fallback = parts
    else:
        if fallback is None:
            raise DataError(_without_an_emotion(config, outer))
        parts = fallback
    train_i, validation_i, test_i = (
        [index for speaker in part for index in speakers[speaker]] for part in parts
    )
    return train_i, validation_i, test_i, frozenset([*parts[1], *parts[2]])


def _as_paper(samples: Samples, config: SplitConfig, rng: np.random.Generator) -> _Parts:
    everything = range(len(samples))
    rest, test = _stratified(samples, everything, config.test_fraction, rng, "test")
    train, validation = _stratified(samples, rest, config.validation, rng, "validation")
    return train, validation, test, frozenset()


def _officially(samples: Samples, config: SplitConfig, rng: np.random.Generator) -> _Parts:
    parts = grouped(range(len(samples)), samples.parts.__getitem__)
    for corpus in dict.fromkeys(samples.corpora):
        own = {p for p, name in zip(samples.parts, samples.corpora, strict=True) if name == corpus}
        if None in own or not {"train", "test"} <= own:
            speakers = len(group_by_speaker(samples, range(len(samples))))
            raise DataError(
                f"corpus {corpus} has no train and test parts of its own, so protocol 'official'"
                f" cannot divide it: use --protocol {'speaker or ' if speakers > 2 else ''}paper"
            )
    train, test = parts["train"], parts["test"]
    if "validation" in parts:
        return train, parts["validation"], test, frozenset()
    speakers_of = group_by_speaker(samples, train)
    if len(speakers_of) >= 2 and sum(map(len, speakers_of.values())) == len(train):
        order = [list(speakers_of)[at] for at in rng.permutation(len(speakers_of))]
        held_out = set(_chosen(order, speakers_of, config.validation * len(train), leave=1))
        rest = [i for i in train if speaker_of(samples, i) not in held_out]
        if set(samples.labels[rest]) == set(samples.labels[train]):
            validation = [i for i in train if speaker_of(samples, i) in held_out]
            return rest, validation, test, frozenset(held_out)
    rest, validation = _stratified(samples, train, config.validation, rng, "validation")
    return rest, validation, test, frozenset()


def _chosen(
    order: Sequence[Speaker], speakers: dict[Speaker, list[int]], target: float, leave: int
) -> list[Speaker]:
    """Speakers in `order` whose samples come nearest to `target`; at least one, `leave` remain."""
    chosen: list[Speaker] = []
    total = 0
    for speaker in order:
        count = len(speakers[speaker])
        nearer = abs(total + count - target) < abs(total - target)
        if nearer and len(chosen) < len(order) - leave:
            chosen.append(speaker)
            total += count
    return chosen or [min(order, key=lambda speaker: len(speakers[speaker]))]


def _stratified(
    samples: Samples, among: Iterable[int], fraction: float, rng: np.random.Generator, part: str
) -> tuple[list[int], list[int]]:
    """Divide `among` in two: `fraction` of each emotion, at least one, goes to the second part.

    Copies of one recording go together.
    """
    rest: list[int] = []
    taken: list[int] = []
    for emotion, own in sorted(grouped(among, samples.labels.tolist().__getitem__).items()):
        groups = list(grouped(own, samples.contents.__getitem__).values())
        if len(groups) < 2:
            raise DataError(
                f"only {len(groups)} {EMOTIONS[emotion]} sample is left for training and {part}:"
                " each emotion needs at least one in each part (3 in all)"
            )
        wanted = min(max(1, round(fraction * len(own))), len(own) - 1)
        second: list[int] = []
        *order, last = rng.permutation(len(groups)).tolist()
        for group in order:
            (second if len(second) < wanted else rest).extend(groups[group])
        # The last one never goes to the second part, so that the first is not left empty.
        rest += groups[last]
        taken += second
    return rest, taken


def without_copies(samples: Samples, indices: Iterable[int], others: Iterable[int]) -> list[int]:
    """`indices` without those whose recording is also one of `others`.

    Args:
        samples: Samples of one modality.
        indices: Indices into them.
        others: Indices into them.
    """
    elsewhere = {samples.contents[index] for index in others}
    return [index for index in indices if samples.contents[index] not in elsewhere]


def _without_an_emotion(config: SplitConfig, outer: Sequence[Speaker]) -> str:
    if outer:
        return (
            f"outer fold {config.outer} tests {list_speakers(outer)}, and no division of the others"
            " leaves every emotion in the training part: use more outer folds, another split_seed,"
            " or a corpus in which more speakers have each emotion"
        )
    return (
        "protocol 'speaker': no division of the speakers leaves every emotion in the training"
        " part; use another split_seed, smaller test and validation parts, or protocol paper"
    )


def _check(task: Task, config: SplitConfig, division: Split) -> None:
    acoustic = task.samples("acoustic")
    name, remedy = f"protocol '{config.protocol}'", "other fractions or another protocol"
    if config.has_outer:
        name, remedy = f"outer fold {config.outer}", "or fewer outer folds"
    for part in ("train", "validation", "test"):
        labels = acoustic.labels[getattr(division, f"acoustic_{part}")]
        emotions = len(set(labels.tolist()))
        if emotions < 2:
            raise DataError(
                f"{name}: acoustic {part} holds {len(labels)} samples of {emotions} emotions, at"
                f" least 2 are needed; use more data, {remedy}"
            )
    trained = {EMOTIONS[label] for label in acoustic.labels[division.acoustic_train]}
    unseen = [emotion for emotion in task.emotions("acoustic") if emotion not in trained]
    if unseen:
        raise DataError(
            f"{name}: no {unseen[0]} sample is left in the training part; use another split_seed,"
            f" {remedy}"
        )
    if not len(division.visual_train):
        raise DataError(
            f"{name}: no visual sample is left for training (the faces of held-out speakers and of"
            " test parts are kept out); add a visual source"
        )
