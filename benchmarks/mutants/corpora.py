"""Corpora of damaged files beside whole ones, in the layouts that our readers know."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.mutants import tables
from benchmarks.mutants.mutations import MUTATIONS, TABLE, Whole
from benchmarks.mutants.seeds import Seeds

KINDS: Final = ("wav", "flac", "avi", "mp4", "jpg", TABLE)

# So many damaged files come to one whole file, and there are never fewer whole ones than these.
_TO_ONE_WHOLE: Final = 5
_FEWEST_WHOLE: Final = 14

_MELD: Final = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
# Clips of each part of a corpus whose table is damaged.
_CLIPS: Final = 5


@dataclass
class Corpus:
    """A corpus on disk. Paths are those below its root."""

    name: str
    root: Path
    modality: str
    damaged: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Kind and mutation of each damaged file."""
    whole: set[str] = field(default_factory=set)
    """Files that are not damaged and must be read, or, beside a damaged table, be counted."""


def cells(files: int) -> Iterator[tuple[str, str]]:
    """Kind and mutation of each of that many files: all pairs alike, as far as it goes."""
    pairs = [(kind, mutation) for mutation in MUTATIONS for kind in KINDS]
    return itertools.islice(itertools.cycle(pairs), files)


def write_corpora(root: Path, seeds: Seeds, files: int, rng: np.random.Generator) -> list[Corpus]:
    """`files` damaged files in several corpora below `root`; a video with sound is in two."""
    plan: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for kind, mutation in cells(files):
        plan[kind].append(mutation)
    made = _Maker(seeds, rng)
    speech = [("wav", m) for m in plan["wav"]] + [("flac", m) for m in plan["flac"]]
    corpora = [
        made.corpus(Corpus("ravdess", root / "speech", "acoustic"), speech),
        made.corpus(Corpus("savee", root / "films", "visual"), [("avi", m) for m in plan["avi"]]),
        made.corpus(Corpus("folders", root / "faces", "visual"), [("jpg", m) for m in plan["jpg"]]),
    ]
    clips = made.corpus(Corpus("meld", root / "clips", "visual"), [("mp4", m) for m in plan["mp4"]])
    sound = Corpus("meld", clips.root, "acoustic", clips.damaged, clips.whole)
    spoilt = [
        made.spoilt_table(root, number, mutation) for number, mutation in enumerate(plan[TABLE])
    ]
    return [*corpora, clips, sound, *spoilt]


class _Maker:
    """Writes files, whole and damaged, from one stream of random numbers."""

    def __init__(self, seeds: Seeds, rng: np.random.Generator) -> None:
        self._seeds = seeds
        self._rng = rng

    def corpus(self, corpus: Corpus, damaged: list[tuple[str, str]]) -> Corpus:
        """Fill a corpus: the damaged files and the whole ones in random order."""
        whole = max(_FEWEST_WHOLE, len(damaged) // _TO_ONE_WHOLE)
        kinds = sorted({kind for kind, _ in damaged})
        every = [*damaged, *((kinds[number % len(kinds)], "") for number in range(whole))]
        for number, at in enumerate(self._rng.permutation(len(every))):
            kind, mutation = every[at]
            name = _NAMES[corpus.name](number, len(every), kind)
            self._write(corpus, name, kind, mutation)
        if corpus.name == "meld":
            for part in _MELD:
                table = tables.table(_share(len(every), part))
                (corpus.root / f"{part}_sent_emo.csv").write_bytes(table)
        return corpus

    def spoilt_table(self, root: Path, number: int, mutation: str) -> Corpus:
        """A corpus with one damaged table of three; all such corpora have the same clips."""
        clips = self._clips(root / "spoilt clips")
        corpus = Corpus("meld", root / f"table {number:03d}", "acoustic")
        corpus.root.mkdir(parents=True)
        spoilt = list(_MELD)[self._rng.integers(len(_MELD))]
        for part, folder in _MELD.items():
            (corpus.root / folder).symlink_to(clips)
            data, name = tables.table(_CLIPS), f"{part}_sent_emo.csv"
            if part == spoilt:
                data = self._mutated(TABLE, data, mutation)
                corpus.damaged[name] = (TABLE, mutation)
            (corpus.root / name).write_bytes(data)
            corpus.whole |= {f"{folder}/{clip.name}" for clip in clips.iterdir()}
        return corpus

    def _clips(self, folder: Path) -> Path:
        if not folder.exists():
            folder.mkdir(parents=True)
            for number in range(_CLIPS):
                (folder / f"dia0_utt{number}.mp4").write_bytes(self._seeds["mp4"][number])
        return folder

    def _write(self, corpus: Corpus, name: str, kind: str, mutation: str) -> None:
        data = self._any(kind)
        if mutation:
            data = self._mutated(kind, data, mutation)
            corpus.damaged[name] = (kind, mutation)
        else:
            corpus.whole.add(name)
        (corpus.root / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus.root / name).write_bytes(data)

    def _mutated(self, kind: str, data: bytes, mutation: str) -> bytes:
        others = sorted(set(self._seeds) - {kind})
        stranger = self._any(others[self._rng.integers(len(others))])
        return MUTATIONS[mutation](Whole(kind, data, stranger), self._rng)

    def _any(self, kind: str) -> bytes:
        return self._seeds[kind][self._rng.integers(len(self._seeds[kind]))]


# --- the published names of the n-th file of a corpus; emotions go round


def _ravdess(number: int, total: int, kind: str) -> str:
    emotion = (1, 3, 4, 5, 6, 7, 8)[number % 7]
    statement, actor = number // 7 % 99 + 1, number // 693 + 1
    return f"Actor_{actor:02d}/03-01-{emotion:02d}-01-{statement:02d}-01-{actor:02d}.{kind}"


def _savee(number: int, total: int, kind: str) -> str:
    emotion = ("a", "d", "f", "h", "n", "sa", "su")[number % 7]
    speaker = ("DC", "JE", "JK", "KL")[number // 7 % 4]
    return f"VisualData/{speaker}/{emotion}{number // 28 + 1:02d}.{kind}"


def _folders(number: int, total: int, kind: str) -> str:
    emotion = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")[number % 7]
    return f"{emotion}/{number}.{kind}"


def _meld(number: int, total: int, kind: str) -> str:
    for part, folder in _MELD.items():
        if number < _share(total, part):
            return f"{folder}/dia0_utt{number}.{kind}"
        number -= _share(total, part)
    raise AssertionError(number)


def _share(total: int, part: str) -> int:
    """Files of one part of MELD: a fifth for validation and for test."""
    return total - 2 * (total // 5) if part == "train" else total // 5


_NAMES: Final = {"ravdess": _ravdess, "savee": _savee, "folders": _folders, "meld": _meld}
