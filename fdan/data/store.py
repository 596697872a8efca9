"""Prepared stores: the images of one source as one memory-mapped array, with their labels.

A store is a folder named by the fingerprint of its files' contents and the settings. It is
complete or absent: it is made under another name and renamed. Reading one needs NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import PARTS
from fdan.emotions import EMOTIONS, MODALITIES
from fdan.errors import DataError
from fdan.media.speech_statistics import COLUMNS, DESCRIPTION, VERSION

FORMAT: Final = 1
IMAGES: Final = "images.npy"
STATISTICS: Final = f"mfcc-v{VERSION}.npy"
"""Beside the images of speech, one row each: fdan/media/speech_statistics. Stores of earlier
releases have none until they are prepared again (fdan/data/prepare.py)."""
MANIFEST: Final = "manifest.json"

PASSED_OVER: Final = "passed over: "
"""Begins the counts of what lies in the corpus's folder and is not used."""

_PER_SAMPLE: Final = ("speakers", "utterances", "parts", "files", "contents")
_HEAD: Final = ("corpus", "modality", "settings", "fingerprint")
_FILES: Final = ("unreadable", "problems", "counts")


@dataclass(frozen=True, eq=False)
class Store:
    """The N images of one corpus in one modality. All lists have N entries in one order.

    A video gives several images, which share their utterance. Pickling a store passes its folder
    on, not its pixels: processes of one machine share them through the page cache.
    """

    folder: Path
    corpus: str
    modality: str
    settings: Mapping[str, object]
    fingerprint: str
    images: NDArray[np.uint8]  # (N, height, width, C), read-only; C: 1 of speech, 3 (RGB) of faces
    emotions: NDArray[np.int64]  # (N,) indices into fdan.emotions.EMOTIONS
    speakers: list[str | None]
    utterances: list[str]
    parts: list[str | None]  # the corpus's own: train, validation, test or None
    files: list[str]  # path of each sample's file below the source's folder
    contents: list[str]  # SHA-256 of each sample's file: equal where two files are the same
    # Path and reason of files that could not be used, and of those that the corpus lists and lacks.
    unreadable: list[dict[str, str]] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    statistics: NDArray[np.float32] | None = None  # (N, COLUMNS) of speech; None: not computed

    def __len__(self) -> int:
        return len(self.emotions)

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        return open_store, (self.folder,)


def open_store(folder: Path) -> Store:
    """A store that was prepared before, checked to be whole. DataError: not a store, of another
    format, or damaged; names the folder."""
    folder = folder.absolute()
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: not a prepared store (it has no {MANIFEST})")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(
            f"{folder}: made by another release of fdan-search; delete it and prepare again"
        )
    try:
        return _checked(folder, manifest)
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error


def _checked(folder: Path, manifest: dict[str, Any]) -> Store:
    images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
    shape = tuple(manifest["shape"])
    if images.shape != shape or images.dtype != np.uint8:
        raise _damaged(folder, f"{IMAGES} holds {images.shape}, its {MANIFEST} says {shape}")
    assert isinstance(images, np.memmap)
    expected = images.offset + images.nbytes
    if (size := (folder / IMAGES).stat().st_size) != expected:
        raise _damaged(folder, f"{IMAGES} has {size} bytes instead of {expected}")
    samples = manifest["samples"]
    for name in ("emotions", *_PER_SAMPLE):
        if len(samples[name]) != len(images):
            raise _damaged(folder, f"{len(samples[name])} {name} for {len(images)} images")
    if manifest["modality"] not in MODALITIES or not set(samples["parts"]) <= {*PARTS, None}:
        raise _damaged(folder, "unknown modality or part")
    if not set(samples["emotions"]) <= set(EMOTIONS):
        raise _damaged(folder, "unknown emotion")
    return Store(
        folder=folder,
        images=images,
        statistics=_statistics(folder, manifest, len(images)),
        emotions=np.array([EMOTIONS.index(name) for name in samples["emotions"]], dtype=np.int64),
        **{name: samples[name] for name in _PER_SAMPLE},
        **{name: manifest[name] for name in (*_HEAD, *_FILES)},
    )


def _statistics(folder: Path, manifest: dict[str, Any], samples: int) -> NDArray[np.float32] | None:
    """The store's speech statistics. A store that is older than they are may have got them since:
    its manifest, by which a cluster's nodes tell whether their copies are alike, stays as it is."""
    if not (folder / STATISTICS).exists():
        if manifest.get("statistics") == DESCRIPTION:
            raise _damaged(folder, f"it has no {STATISTICS}")
        return None
    statistics: NDArray[np.float32] = np.load(folder / STATISTICS, allow_pickle=False)
    shape = samples, COLUMNS
    if statistics.shape != shape or statistics.dtype != np.float32:
        raise _damaged(folder, f"{STATISTICS} holds {statistics.shape}, not {shape}")
    return statistics


def _damaged(folder: Path, why: str) -> DataError:
    return DataError(f"{folder}: damaged store ({why}); delete it and prepare again")


@dataclass(frozen=True)
class PrepareProgress:
    """Progress of preparing one source. `total` is 0 where it is not known."""

    source: str
    stage: str  # hashing, waiting (another process prepares the same store), or decoding
    done: int
    total: int
    unreadable: int = 0


ProgressCallback = Callable[[PrepareProgress], None]


def no_progress(progress: PrepareProgress) -> None:
    """Show nothing."""
