"""Tasks made of names: samples of speakers, without files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fdan.data.store import Store
from fdan.data.task import Task

# (speaker, emotion index, part, content)
Sample = tuple[str | None, int, str | None, str]


def store(corpus: str, modality: str, samples: Sequence[Sample], images: int = 1) -> Store:
    """A store as open_store gives it, without its files; each sample stands `images` times."""
    rows = [sample for sample in samples for _ in range(images)]
    shape = (len(rows), 4, 4, 1 if modality == "acoustic" else 3)
    return Store(
        folder=Path(f"/{corpus}-{modality}"),
        corpus=corpus,
        modality=modality,
        settings={"version": 1},
        fingerprint=f"{corpus}{modality}",
        images=np.zeros(shape, np.uint8),
        emotions=np.array([emotion for _, emotion, _, _ in rows], np.int64),
        speakers=[speaker for speaker, _, _, _ in rows],
        utterances=[content for _, _, _, content in rows],
        parts=[part for _, _, part, _ in rows],
        files=[content for _, _, _, content in rows],
        contents=[content for _, _, _, content in rows],
        unreadable=[],
        problems=[],
        counts={},
    )


def acted(speakers: str, takes: int = 4, part: str | None = None, corpus: str = "savee") -> list:
    """`takes` samples of each emotion by each speaker (one capital letter each)."""
    return [
        (2 * speaker, emotion, part, f"{corpus}-{part}-{speaker}{emotion}{take}")
        for speaker in speakers
        for emotion in range(7)
        for take in range(takes)
    ]


def fer(count: int = 3, part: str | None = "train") -> list:
    return [
        (None, emotion, part, f"fer{part}{emotion}{n}")
        for emotion in range(7)
        for n in range(count)
    ]


def task_of(samples: Sequence[Sample], visual: Store | None = None, corpus: str = "savee") -> Task:
    faces = visual or store(corpus, "visual", samples, images=3)
    return Task((store(corpus, "acoustic", samples),), (faces,))


def who(task: Task, modality: str, indices: np.ndarray) -> set[tuple[str, str | None]]:
    samples = task.samples(modality)
    return {(samples.corpora[index], samples.speakers[index]) for index in indices}


def official(validation: bool = True) -> list:
    samples = acted("ABCD", part="train") + acted("AE", part="test", takes=2)
    return samples + (acted("BF", part="validation", takes=2) if validation else [])
