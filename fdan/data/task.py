"""A task as the paper names it: acoustic and visual domains, paired by label (section 3.4)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fdan.data.store import Store
from fdan.emotions import EMOTIONS, MODALITIES
from fdan.errors import DataError


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of one modality: its stores' samples, one store after the other."""

    labels: NDArray[np.int64]  # (N,) indices into fdan.emotions.EMOTIONS
    speakers: tuple[str | None, ...]
    utterances: tuple[str, ...]
    parts: tuple[str | None, ...]
    corpora: tuple[str, ...]
    contents: tuple[str, ...]  # SHA-256 of each sample's file

    @cached_property
    def people(self) -> tuple[str | None, ...]:
        """Each sample's speaker, of two corpora with the corpus's name, since these may call
        different people the same."""
        if len(set(self.corpora)) < 2:
            return self.speakers
        pairs = zip(self.corpora, self.speakers, strict=True)
        return tuple(None if name is None else f"{corpus}/{name}" for corpus, name in pairs)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Task:
    """One or more acoustic and one or more visual stores. DataError: a modality is missing, or
    stores of one modality were prepared differently."""

    acoustic: tuple[Store, ...]
    visual: tuple[Store, ...]

    def __post_init__(self) -> None:
        for modality in ("acoustic", "visual"):
            stores = self.stores(modality)
            if not stores:
                raise DataError(f"no {modality} source: a task needs at least one")
            assert all(store.modality == modality for store in stores)
            first = stores[0]
            for store in stores[1:]:
                differing = [
                    name
                    for name in sorted({*first.settings, *store.settings})
                    if first.settings.get(name) != store.settings.get(name)
                ]
                if differing:
                    raise DataError(
                        f"{store.folder} and {first.folder} were prepared with different settings"
                        f" ({', '.join(differing)}): prepare both alike"
                    )

    def stores(self, modality: str) -> tuple[Store, ...]:
        return self.acoustic if modality == "acoustic" else self.visual

    @property
    def name(self) -> str:
        """The paper's way to write it: SAVEE{Sv,Mv,Sa} is acoustic SAVEE, visual SAVEE and MELD."""
        corpora = list(dict.fromkeys(store.corpus.upper() for store in self.acoustic))
        domains = [f"{store.corpus[0].upper()}v" for store in self.visual]
        domains += [f"{store.corpus[0].upper()}a" for store in self.acoustic]
        return f"{'+'.join(corpora)}{{{','.join(dict.fromkeys(domains))}}}"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the stores: what a study or a model was made from."""
        # Files that were unreadable on one machine only (too slow, say) make other data.
        stores = [
            [store.modality, store.fingerprint, len(store), store.unreadable]
            for store in (*self.acoustic, *self.visual)
        ]
        return hashlib.sha256(json.dumps(stores).encode()).hexdigest()

    def samples(self, modality: str) -> Samples:
        """Labels and origins of all samples of a modality; a Split's indices point into them."""
        return self._samples[modality]

    @cached_property
    def _samples(self) -> dict[str, Samples]:
        return {modality: _joined(self.stores(modality)) for modality in MODALITIES}

    def images(self, modality: str, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of the images of some samples, (N, height, width, channels) uint8.

        Args:
            modality: "acoustic" or "visual".
            indices: (N,) positions in `samples(modality)`.
        """
        stores = self.stores(modality)
        starts = np.cumsum([0, *map(len, stores)])
        images = np.empty((len(indices), *stores[0].images.shape[1:]), dtype=np.uint8)
        for store, start, end in zip(stores, starts[:-1], starts[1:], strict=True):
            inside = (indices >= start) & (indices < end)
            images[inside] = store.images[indices[inside] - start]
        return images

    @cached_property
    def statistics(self) -> NDArray[np.float32] | None:
        """(N, COLUMNS) MFCC statistics of all speech (fdan/media/speech_statistics); None where a
        store has none."""
        statistics = [s.statistics for s in self.acoustic if s.statistics is not None]
        return np.concatenate(statistics) if len(statistics) == len(self.acoustic) else None

    def emotions(self, modality: str) -> list[str]:
        """Emotions of which there is at least one sample, in the order of EMOTIONS."""
        return [EMOTIONS[label] for label in np.unique(self.samples(modality).labels)]

    @property
    def absent(self) -> dict[str, list[str]]:
        """Emotions of which a modality has no sample, by modality; without those that have all."""
        absent = {m: [e for e in EMOTIONS if e not in self.emotions(m)] for m in MODALITIES[::-1]}
        return {modality: emotions for modality, emotions in absent.items() if emotions}


def _joined(stores: Sequence[Store]) -> Samples:
    return Samples(
        labels=np.concatenate([store.emotions for store in stores]),
        speakers=tuple(speaker for store in stores for speaker in store.speakers),
        utterances=tuple(utterance for store in stores for utterance in store.utterances),
        parts=tuple(part for store in stores for part in store.parts),
        corpora=tuple(store.corpus for store in stores for _ in range(len(store))),
        contents=tuple(content for store in stores for content in store.contents),
    )
