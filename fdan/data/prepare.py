"""From a corpus to a prepared store: hashed, decoded in parallel, resumable, in place at once.

While it is made, a store lies in `NAME.partial` (fdan/data/partial_store.py).
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora import STORE, Listing, Source, read
from fdan.data import store as stored
from fdan.data.content_hash import Content, ContentCache
from fdan.data.partial_store import Done, PartialStore, lock_store
from fdan.errors import DataError
from fdan.files import write_atomic
from fdan.machine.cpus import cpu_count
from fdan.machine.rights import explain
from fdan.media.pixels import Settings, image_shape, reading, settings_to_dict
from fdan.media.pool import DecoderPool
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.speech_statistics import DESCRIPTION

_PROGRESS_INTERVAL_S: Final = 0.1  # progress is reported at most this often

_Report = Callable[..., None]  # of the stage, how many are done, of how many, how many unreadable


def prepare(
    source: Source,
    settings: Settings | None,
    root: Path,
    *,
    workers: int | None = None,
    progress: stored.ProgressCallback = stored.no_progress,
    timeout_s: float = 120.0,
) -> stored.Store:
    """The store of a source below `root`: opened if it is there, made otherwise.

    Two processes that prepare the same store at once make it once. A `store:` source is opened
    as it is, whatever the settings. DataError: nothing to prepare, nothing readable, or no place
    to put it.

    Args:
        source: A corpus in one modality.
        settings: SpectrogramSettings or FaceSettings, as the source's modality needs; None where
            it is a prepared store.
        root: Folder of all stores.
        workers: Number of decoding processes; None for one a core.
        progress: Callback, given stage and progress at most ten times a second.
        timeout_s: Seconds that one file may take before it is listed as unreadable.
    """
    if source.corpus == STORE:
        store = stored.open_store(source.path)
        if store.modality != source.modality:
            raise DataError(
                f"{source}: holds {store.modality} samples and is given as {source.modality} source"
            )
        return store
    assert settings is not None
    assert isinstance(settings, SpectrogramSettings) == (source.modality == "acoustic")
    count = cpu_count() if workers is None else max(1, workers)
    listing = read(source)
    paths = [row.path for row in listing.rows]
    root = root.expanduser().absolute()
    report = _throttled(source, progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        cache = ContentCache(root / "contents.json")
        with DecoderPool(settings, count, timeout_s) as pool:
            if not cache.knows(paths):  # then there is something to decode
                pool.start()
            contents = cache.hash(paths, count, lambda done: report("hashing", done, len(paths)))
            corpus = _Corpus(source, listing, settings, contents)
            store = _open_or_make(corpus, root, pool, report)
            if source.modality == "acoustic" and store.statistics is None:
                store = _add_statistics(store, corpus, pool, report)
            return store
    except OSError as error:
        raise DataError(f"cannot prepare {source} in {root}: {explain(error, root)}") from error


@dataclass(frozen=True)
class _Corpus:
    """A corpus as its files are now, and how it is to be prepared."""

    source: Source
    listing: Listing
    settings: Settings
    contents: Sequence[Content]  # content of each row's file

    @cached_property
    def files(self) -> list[str]:
        """Path of each row below the source's folder."""
        return [self._below(row.path) for row in self.listing.rows]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything that the store's content follows from, and nothing else: the
        same corpus in another place has the same fingerprint."""
        head = json.dumps([stored.FORMAT, settings_to_dict(self.settings)])
        digest = hashlib.sha256(head.encode())
        for row, file, content in zip(self.listing.rows, self.files, self.contents, strict=True):
            fields = [file, content.sha256, row.emotion, row.speaker, row.utterance, row.part]
            read_as = 1 if content.problem else reading(row.path, self.source.modality)
            digest.update(json.dumps([*fields, *([read_as] if read_as > 1 else [])]).encode())
        return digest.hexdigest()

    def _below(self, path: Path) -> str:
        return str(path).removeprefix(os.path.join(self.source.path, ""))  # noqa: PTH118 (a tenth of pathlib's time)

    @property
    def _passed_over(self) -> dict[str, int]:
        counts = {**self.listing.skipped, **self.listing.unused}
        return {stored.PASSED_OVER + name: count for name, count in counts.items()}

    @property
    def _problems(self) -> list[dict[str, str]]:
        return [
            {"path": self._below(problem.path), "reason": problem.reason}
            for problem in self.listing.problems
        ]

    def open(self, folder: Path) -> stored.Store:
        """The corpus's store, with what lies beside its files now: that may be more than when it
        was made, and makes no other store."""
        store = stored.open_store(folder)
        made = {n: c for n, c in store.counts.items() if not n.startswith(stored.PASSED_OVER)}
        return replace(store, counts={**made, **self._passed_over}, problems=self._problems)

    def manifest(self, done: Sequence[Done]) -> dict[str, object]:
        """The store's manifest. DataError if too little of the corpus is readable."""
        source, rows, files = self.source, self.listing.rows, self.files
        unreadable = [
            {"path": file, "reason": entry["reason"]}
            for file, entry in zip(files, done, strict=True)
            if entry["reason"]
        ]
        such_as = "for instance {path} {reason}".format(**unreadable[0]) if unreadable else ""
        each = [at for at, entry in enumerate(done) for _ in range(entry["images"])]
        if not each:
            raise DataError(f"{source}: none of its {len(rows)} files can be used ({such_as})")
        emotions = {rows[at].emotion for at in each}
        if len(emotions) < 2:
            raise DataError(
                f"{source}: all readable files are of one emotion, {emotions.pop()}; at least two"
                f" are needed ({len(unreadable)} files are unreadable, {such_as})"
            )
        counts: Counter[str] = Counter()
        for entry in done:
            counts.update(entry["counts"])
        counts += Counter()  # without zeros
        return {
            "format": stored.FORMAT,
            "corpus": source.corpus,
            "modality": source.modality,
            "settings": settings_to_dict(self.settings),
            "fingerprint": self.fingerprint,
            "shape": [len(each), *image_shape(self.settings)],
            **({"statistics": DESCRIPTION} if source.modality == "acoustic" else {}),
            "counts": {
                "files": len(rows),
                "images": len(each),
                "unreadable": len(unreadable),
                **counts,
                **self._passed_over,
            },
            "unreadable": unreadable,
            "problems": self._problems,
            "samples": {
                "emotions": [rows[at].emotion for at in each],
                "speakers": [rows[at].speaker for at in each],
                "utterances": [rows[at].utterance for at in each],
                "parts": [rows[at].part for at in each],
                "files": [files[at] for at in each],
                "contents": [self.contents[at].sha256 for at in each],
            },
        }


def _open_or_make(corpus: _Corpus, root: Path, pool: DecoderPool, report: _Report) -> stored.Store:
    source, rows, contents = corpus.source, corpus.listing.rows, corpus.contents
    folder = root / f"{source.corpus}-{source.modality}-{corpus.fingerprint[:12]}"
    if folder.exists():
        return corpus.open(folder)
    with lock_store(folder, waiting=lambda: report("waiting", 0, 0)):
        if folder.exists():  # another process was first
            return corpus.open(folder)
        partial = root / f"{folder.name}.partial"
        with PartialStore(partial, corpus.settings) as store:
            left = range(len(store.done), len(rows))
            unreadable = sum(bool(entry["reason"]) for entry in store.done)
            answers = pool.read([rows[at].path for at in left if not contents[at].problem])
            for at in left:
                answer = contents[at].problem or next(answers)
                store.add(answer)
                unreadable += isinstance(answer, str)
                report("decoding", at + 1, len(rows), unreadable)
        try:
            manifest = corpus.manifest(store.done)
        except DataError:
            shutil.rmtree(partial)
            raise
        store.finish(manifest)
        partial.rename(folder)
    return corpus.open(folder)


def _add_statistics(
    store: stored.Store, corpus: _Corpus, pool: DecoderPool, report: _Report
) -> stored.Store:
    """A store of an earlier release with the statistics of its speech, which are computed now: the
    corpus has the fingerprint that the store has, so its files are the same. Without them where one
    of the files cannot be read this time."""
    paths = dict(zip(corpus.files, (row.path for row in corpus.listing.rows), strict=True))
    rows = []
    for answer in pool.read([paths[file] for file in store.files]):
        if isinstance(answer, str) or answer.statistics is None:
            return store
        rows.append(answer.statistics)
        report("statistics of speech", len(rows), len(store))
    statistics = np.concatenate(rows)
    with contextlib.suppress(OSError):  # whoever may not write there has them for this process
        file = store.folder / stored.STATISTICS
        write_atomic(file, lambda path: _save(path, statistics), sync=True)
    return replace(store, statistics=statistics)


def _save(path: Path, array: NDArray[np.float32]) -> None:
    with path.open("wb") as file:  # np.save would add a suffix to the name
        np.save(file, array)


def _throttled(source: Source, progress: stored.ProgressCallback) -> _Report:
    """Pass progress on, but not more often than a person can see."""
    last = 0.0

    def report(stage: str, done: int, total: int, unreadable: int = 0) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= _PROGRESS_INTERVAL_S:
            last = now
            progress(stored.PrepareProgress(str(source), stage, done, total, unreadable))

    return report
