"""Division into training, validation and test part: the three protocols.

`speaker`: train, validation and test speakers are disjoint, and the faces of held-out speakers
are kept out of training, too. `paper`: of each emotion 8/10 of the acoustic samples train and
2/10 test, all faces train (section 3.2); validation comes out of the training part. `official`:
the corpus's own parts.

Whatever the protocol, a recording that a corpus holds twice never lies on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.config import Above, Config, option
from fdan.data.task import Samples, Task
from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, DataError

Indices = NDArray[np.int64]
Speaker = tuple[str, str]

# Test part where none is given. The paper tests on 2/10 (section 3.2).
PAPER_TEST: Final = 0.2
SPEAKER_TEST: Final = 0.25

_TRIES: Final = 200
"""Number of divisions tried before one that lacks a class in some part is accepted."""


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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol == "official" and self.test is not None:
            raise ConfigError(f"test = {self.test}: protocol official has a test part of its own")
        if self.protocol == "speaker" and self.validation + self.test_fraction >= 1:
            raise ConfigError(
                f"validation = {self.validation} and test = {self.test_fraction}: nothing is left"
                " for training"
            )

    @property
    def test_fraction(self) -> float:
        if self.test is not None:
            return self.test
        return PAPER_TEST if self.protocol == "paper" else SPEAKER_TEST


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted index arrays into Task.samples(modality).

    Nothing that a search sees comes from `acoustic_test`.
    """

    visual_train: Indices
    acoustic_train: Indices
    acoustic_validation: Indices
    acoustic_test: Indices
    duplicates: int = 0
    """Acoustic samples left out because the same recording lies in a part further right."""


@dataclass(frozen=True)
class PartCount:
    """One part of a split, counted."""

    part: str
    total: int
    emotions: dict[str, int]
    """Samples of each of EMOTIONS, in that order."""
    speakers: dict[str, int]
    """Samples of each speaker, by name; empty where the corpora name none."""


def split(task: Task, config: SplitConfig) -> Split:
    """Divide a task's samples; a pure function of both.

    Args:
        task: The data.
        config: Protocol, fractions and seed.

    Raises:
        DataError: These corpora do not allow the protocol; says why and which one they allow.
    """
    acoustic, visual = task.samples("acoustic"), task.samples("visual")
    rng = np.random.default_rng(config.split_seed)
    divide = {"speaker": _by_speaker, "paper": _as_paper, "official": _officially}
    train, validation, test, held_out = divide[config.protocol](acoustic, config, rng)
    before = len(train) + len(validation)
    validation = _without(acoustic, validation, [test])
    train = _without(acoustic, train, [validation, test])
    # A film that serves both modalities, perhaps under another corpus's name or none of a speaker.
    # The paper trains on all faces, whoever speaks in the test part.
    films = {acoustic.contents[index] for index in (*validation, *test)}
    films = set() if config.protocol == "paper" else films
    visual_train = [
        index
        for index in range(len(visual))
        if _speaker(visual, index) not in held_out
        and visual.contents[index] not in films
        and (config.protocol != "official" or visual.parts[index] in ("train", None))
    ]
    division = Split(
        visual_train=_indices(visual_train),
        acoustic_train=_indices(train),
        acoustic_validation=_indices(validation),
        acoustic_test=_indices(test),
        duplicates=before - len(train) - len(validation),
    )
    _check(task, config, division)
    return division


def describe(task: Task, split: Split) -> list[PartCount]:
    """Count each part's samples by emotion and by speaker, for a table.

    Args:
        task: The data.
        split: Division of the task.
    """
    listed = (
        ("visual train", "visual", split.visual_train),
        ("acoustic train", "acoustic", split.acoustic_train),
        ("acoustic validation", "acoustic", split.acoustic_validation),
        ("acoustic test", "acoustic", split.acoustic_test),
    )
    counted = []
    for name, modality, indices in listed:
        samples = task.samples(modality)
        labels = np.bincount(samples.labels[indices], minlength=len(EMOTIONS)).tolist()
        speakers = Counter(samples.speakers[index] for index in indices)
        named = {name: count for name, count in speakers.items() if name is not None}
        counted.append(
            PartCount(
                name,
                len(indices),
                dict(zip(EMOTIONS, labels, strict=True)),
                dict(sorted(named.items())),
            )
        )
    return counted


_Parts = tuple[Sequence[int], Sequence[int], Sequence[int], frozenset[Speaker]]


def _by_speaker(samples: Samples, config: SplitConfig, rng: np.random.Generator) -> _Parts:
    speakers = _speakers(samples, range(len(samples)))
    pairs = zip(samples.corpora, samples.speakers, strict=True)
    nameless = sorted({corpus for corpus, name in pairs if name is None})
    if nameless:
        possible = ["paper"] + ["official"] * ({"train", "test"} <= set(samples.parts))
        raise DataError(
            f"corpus {', '.join(nameless)} names no speakers, so protocol 'speaker' cannot divide"
            f" it: use protocol {' or '.join(possible)}"
        )
    if len(speakers) < 3:
        names = ", ".join(name for _, name in speakers)
        raise DataError(
            f"protocol 'speaker' needs at least 3 acoustic speakers, here is {len(speakers)}"
            f" ({names}): add a source or use protocol paper"
        )
    classes = {
        speaker: set(samples.labels[indices].tolist()) for speaker, indices in speakers.items()
    }
    everything = set.union(*classes.values())
    fallback: list[list[Speaker]] | None = None
    for _ in range(_TRIES):
        order = [list(speakers)[at] for at in rng.permutation(len(speakers))]
        counts = {speaker: len(speakers[speaker]) for speaker in order}
        test = _chosen(order, counts, config.test_fraction * len(samples), leave=2)
        order = [speaker for speaker in order if speaker not in test]
        validation = _chosen(order, counts, config.validation * len(samples), leave=1)
        train = [speaker for speaker in order if speaker not in validation]
        parts = [train, validation, test]
        present = [set.union(*(classes[speaker] for speaker in part)) for part in parts]
        if all(part == everything for part in present):
            break
        if fallback is None and present[0] == everything:
            fallback = parts
    else:
        if fallback is None:
            raise DataError(
                "protocol 'speaker': no division of the speakers leaves every emotion in the"
                " training part; use another split_seed, smaller test and validation parts, or"
                " protocol paper"
            )
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
    parts: dict[str | None, list[int]] = {}
    for index, part in enumerate(samples.parts):
        parts.setdefault(part, []).append(index)
    for corpus in dict.fromkeys(samples.corpora):
        own = {p for p, name in zip(samples.parts, samples.corpora, strict=True) if name == corpus}
        if None in own or not {"train", "test"} <= own:
            speakers = len(_speakers(samples, range(len(samples))))
            raise DataError(
                f"corpus {corpus} has no train and test parts of its own, so protocol 'official'"
                f" cannot divide it: use protocol {'speaker or ' if speakers > 2 else ''}paper"
            )
    train, test = parts["train"], parts["test"]
    if "validation" in parts:
        return train, parts["validation"], test, frozenset()
    speakers_of = _speakers(samples, train)
    if len(speakers_of) >= 2 and sum(map(len, speakers_of.values())) == len(train):
        order = [list(speakers_of)[at] for at in rng.permutation(len(speakers_of))]
        counts = {speaker: len(speakers_of[speaker]) for speaker in order}
        held_out = set(_chosen(order, counts, config.validation * len(train), leave=1))
        rest = [i for i in train if _speaker(samples, i) not in held_out]
        if set(samples.labels[rest]) == set(samples.labels[train]):
            validation = [i for i in train if _speaker(samples, i) in held_out]
            return rest, validation, test, frozenset(held_out)
    rest, validation = _stratified(samples, train, config.validation, rng, "validation")
    return rest, validation, test, frozenset()


def _chosen(
    order: Sequence[Speaker], counts: dict[Speaker, int], target: float, leave: int
) -> list[Speaker]:
    """Speakers in `order` whose samples come nearest to `target`; at least one, `leave` remain."""
    chosen: list[Speaker] = []
    total = 0
    for speaker in order:
        nearer = abs(total + counts[speaker] - target) < abs(total - target)
        if nearer and len(chosen) < len(order) - leave:
            chosen.append(speaker)
            total += counts[speaker]
    return chosen or [min(order, key=lambda speaker: counts[speaker])]


def _stratified(
    samples: Samples,
    among: Iterable[int],
    fraction: float,
    rng: np.random.Generator,
    part: str,
) -> tuple[list[int], list[int]]:
    """Divide `among` in two: `fraction` of each emotion, at least one, goes to the second part.

    Copies of one recording go together.
    """
    rest: list[int] = []
    taken: list[int] = []
    classes: dict[int, list[int]] = {}
    for index in among:
        classes.setdefault(int(samples.labels[index]), []).append(index)
    for emotion in sorted(classes):
        groups = _grouped(classes[emotion], [samples.contents[i] for i in classes[emotion]])
        if len(groups) < 2:
            raise DataError(
                f"only {len(groups)} {EMOTIONS[emotion]} sample is left for training and {part}:"
                " each emotion needs at least one in each part (3 in all)"
            )
        wanted = min(max(1, round(fraction * len(classes[emotion]))), len(classes[emotion]) - 1)
        first: list[int] = []
        second: list[int] = []
        order = rng.permutation(len(groups)).tolist()
        for group in order[:-1]:
            (second if len(second) < wanted else first).extend(groups[group])
        # The last one never goes to the second part, so that the first is not left empty.
        first += groups[order[-1]]
        rest += first
        taken += second
    return rest, taken


def _grouped(indices: Sequence[int], keys: Sequence[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for index, key in zip(indices, keys, strict=True):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _without(samples: Samples, indices: Sequence[int], parts: Sequence[Sequence[int]]) -> list[int]:
    """`indices` without those whose recording also lies in one of `parts`."""
    elsewhere = {samples.contents[index] for part in parts for index in part}
    return [index for index in indices if samples.contents[index] not in elsewhere]


def _speaker(samples: Samples, index: int) -> Speaker | None:
    name = samples.speakers[index]
    return None if name is None else (samples.corpora[index], name)


def _speakers(samples: Samples, among: Iterable[int]) -> dict[Speaker, list[int]]:
    """Indices of each named speaker of each corpus, in a fixed order."""
    speakers: dict[Speaker, list[int]] = {}
    for index in among:
        speaker = _speaker(samples, index)
        if speaker is not None:
            speakers.setdefault(speaker, []).append(index)
    return dict(sorted(speakers.items()))


def _check(task: Task, config: SplitConfig, division: Split) -> None:
    acoustic = task.samples("acoustic")
    for name in ("acoustic_train", "acoustic_validation", "acoustic_test"):
        labels = acoustic.labels[getattr(division, name)]
        if len(set(labels.tolist())) < 2:
            raise DataError(
                f"protocol '{config.protocol}': {name.replace('_', ' ')} holds {len(labels)}"
                f" samples of {len(set(labels.tolist()))} emotions, at least 2 are needed; use"
                " more data, other fractions or another protocol"
            )
    trained = set(acoustic.labels[division.acoustic_train].tolist())
    unseen = [emotion for at, emotion in enumerate(EMOTIONS) if at not in trained]
    unseen = [emotion for emotion in unseen if emotion in task.emotions("acoustic")]
    if unseen:
        raise DataError(
            f"protocol '{config.protocol}': no {unseen[0]} sample is left in the training part;"
            " use another split_seed, other fractions or another protocol"
        )
    if not len(division.visual_train):
        raise DataError(
            f"protocol '{config.protocol}': no visual sample is left for training (the faces of"
            " held-out speakers and of test parts are kept out); add a visual source"
        )


def _indices(indices: Iterable[int]) -> Indices:
    return np.array(sorted(indices), dtype=np.int64)
