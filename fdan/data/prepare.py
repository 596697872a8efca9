"""From a corpus to a prepared store: hashed, decoded in parallel, resumable, in place at once.

While it is made, a store lies in `NAME.partial`: the images so far and, in `done.jsonl`, one
line a file. Both only grow, in the order of the corpus, so that whatever a kill leaves behind is
a beginning that the next start goes on from.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from filelock import FileLock, Timeout

from fdan.corpora import STORE, Listing, Row, Source, read
from fdan.cpus import cpu_count
from fdan.data.content_hash import Content, ContentCache
from fdan.data.store import FORMAT, IMAGES, MANIFEST, Progress, Store, Tell, open_store
from fdan.errors import DataError
from fdan.media.pixels import Pixels, Settings, default_settings, image_shape, store_settings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.workers import Workers

_DONE: Final = "done.jsonl"
# Progress is told at most this often.
_TELL_S: Final = 0.1


def prepare(
    source: Source,
    settings: Settings | None,
    root: Path,
    *,
    workers: int | None = None,
    progress: Tell | None = None,
    timeout_s: float = 120.0,
) -> Store:
    """The store of a source below `root`: opened if it is there, made otherwise.

    Two processes that prepare the same store at once make it once. A `store:` source is opened
    as it is, whatever the settings.

    Args:
        settings: SpectrogramSettings or FaceSettings, as the source's modality needs; None for
            the defaults.
        workers: processes that decode; None for one a core.
        progress: told what stage is how far, at most ten times a second.
        timeout_s: seconds that one file may take before it is listed as unreadable.

    Raises:
        DataError: nothing to prepare, nothing readable, or no place to put it.
    """
    if source.corpus == STORE:
        store = open_store(source.path)
        if store.modality != source.modality:
            raise DataError(
                f"{source}: holds {store.modality} samples and is given as {source.modality} source"
            )
        return store
    settings = default_settings(source.modality) if settings is None else settings
    assert isinstance(settings, SpectrogramSettings) == (source.modality == "acoustic")
    count = cpu_count() if workers is None else max(1, workers)
    listing = read(source)
    root = Path(root).expanduser().absolute()
    tell = _Teller(source, progress)
    try:
        root.mkdir(parents=True, exist_ok=True)
        return _prepare(source, listing, settings, root, count, tell, timeout_s)
    except OSError as error:
        raise DataError(
            f"cannot prepare {source} in {root}: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else "")
        ) from error


def _prepare(
    source: Source,
    listing: Listing,
    settings: Settings,
    root: Path,
    count: int,
    tell: _Teller,
    timeout_s: float,
) -> Store:
    paths = [row.path for row in listing.rows]
    cache = ContentCache(root / "contents.json")
    with Workers(settings, count, timeout_s) as pool:
        if not cache.knows(paths):  # then there is something to decode
            pool.start()
        contents = cache.hash(paths, count, lambda done: tell("hashing", done, len(paths)))
        return _made(source, listing, settings, root, contents, pool, tell)


def _made(
    source: Source,
    listing: Listing,
    settings: Settings,
    root: Path,
    contents: Sequence[Content],
    pool: Workers,
    tell: _Teller,
) -> Store:
    rows = listing.rows
    files = [_below(row.path, source.path) for row in rows]
    fingerprint = _fingerprint(rows, files, contents, settings)
    folder = root / f"{source.corpus}-{source.modality}-{fingerprint[:12]}"
    if folder.exists():
        return open_store(folder)
    with _locked(root / f".{folder.name}.lock", lambda: tell("waiting", 0, 0)):
        if folder.exists():  # another process was first
            return open_store(folder)
        partial = root / f"{folder.name}.partial"
        making = _Making(partial, image_shape(settings))
        with making:
            left = range(len(making.done), len(rows))
            readable = [at for at in left if not contents[at].problem]
            answers = pool.read([rows[at].path for at in readable])
            for at in left:
                making.add(contents[at].problem or next(answers))
                tell("decoding", at + 1, len(rows), making.unreadable)
        try:
            manifest = _manifest(source, listing, settings, fingerprint, files, contents, making)
        except DataError:
            shutil.rmtree(partial)
            raise
        making.finish(manifest)
        partial.rename(folder)
    return open_store(folder)


def _fingerprint(
    rows: Sequence[Row], files: Sequence[str], contents: Sequence[Content], settings: Settings
) -> str:
    """SHA-256 over everything that the store's content follows from, and nothing else: the same
    corpus in another place has the same fingerprint."""
    digest = hashlib.sha256(json.dumps([FORMAT, store_settings(settings)]).encode())
    for row, file, content in zip(rows, files, contents, strict=True):
        fields = [file, content.sha256, row.emotion, row.speaker, row.utterance, row.part]
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def _manifest(
    source: Source,
    listing: Listing,
    settings: Settings,
    fingerprint: str,
    files: Sequence[str],
    contents: Sequence[Content],
    making: _Making,
) -> dict[str, Any]:
    rows, done = listing.rows, making.done
    unreadable = [
        {"path": file, "reason": entry["reason"]}
        for file, entry in zip(files, done, strict=True)
        if entry["reason"]
    ]
    each = [at for at, entry in enumerate(done) for _ in range(entry["images"])]
    if not each:
        raise DataError(
            f"{source}: none of its {len(rows)} files can be used"
            f" (for instance {unreadable[0]['path']} {unreadable[0]['reason']})"
        )
    emotions = sorted({rows[at].emotion for at in each})
    if len(emotions) < 2:
        raise DataError(
            f"{source}: all readable files are of one emotion, {emotions[0]}; at least two are"
            f" needed ({len(unreadable)} files are unreadable, for instance"
            f" {unreadable[0]['path']} {unreadable[0]['reason']})"
        )
    counts: Counter[str] = Counter()
    for entry in done:
        counts.update(entry["counts"])
    counts += Counter()  # without zeros
    passed_over = {f"passed over: {name}": n for name, n in listing.passed_over.items()}
    return {
        "format": FORMAT,
        "corpus": source.corpus,
        "modality": source.modality,
        "settings": store_settings(settings),
        "fingerprint": fingerprint,
        "shape": [len(each), *making.shape],
        "counts": {
            "files": len(rows),
            "images": len(each),
            "unreadable": len(unreadable),
            **dict(counts),
            **passed_over,
        },
        "unreadable": unreadable,
        "problems": [
            {"path": _below(problem.path, source.path), "reason": problem.reason}
            for problem in listing.problems
        ],
        "samples": {
            "emotions": [rows[at].emotion for at in each],
            "speakers": [rows[at].speaker for at in each],
            "utterances": [rows[at].utterance for at in each],
            "parts": [rows[at].part for at in each],
            "files": [files[at] for at in each],
            "contents": [contents[at].sha256 for at in each],
        },
    }


class _Making:
    """A store in the making: a folder whose two files grow together, file by file of the corpus."""

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.done: list[dict[str, Any]] = []
        self.unreadable = 0
        self._folder = folder
        self._bytes = int(np.prod(shape))

    def __enter__(self) -> _Making:
        self._folder.mkdir(exist_ok=True)
        self._images: BinaryIO = (self._folder / IMAGES).open("a+b")
        self._lines: BinaryIO = (self._folder / _DONE).open("a+b")
        header = _npy_header((0, *self.shape))
        self._images.seek(0)
        if self._images.read(len(header)) != header:
            self._images.truncate(0)
            self._lines.truncate(0)
            self._images.write(header)
        else:
            self._resume(len(header))
        return self

    def __exit__(self, *_: object) -> None:
        self._images.close()
        self._lines.close()

    def add(self, answer: Pixels | str) -> None:
        """The next file of the corpus: its images, or the reason why there are none."""
        images = 0 if isinstance(answer, str) else len(answer.images)
        entry = {
            "images": images,
            "reason": answer if isinstance(answer, str) else "",
            "counts": {} if isinstance(answer, str) else answer.counts,
        }
        # Images first: a line stands for images that are there.
        if not isinstance(answer, str):
            assert answer.images.shape[1:] == self.shape and answer.images.dtype == np.uint8
            self._images.write(answer.images.tobytes())
            self._images.flush()
        self._lines.write(json.dumps(entry).encode() + b"\n")
        self._lines.flush()
        self._note(entry)

    def finish(self, manifest: dict[str, Any]) -> None:
        """Complete the files; what is left is to rename the folder."""
        header = _npy_header((manifest["shape"][0], *self.shape))
        with (self._folder / IMAGES).open("r+b") as file:
            file.write(header)
            os.fsync(file.fileno())
        with (self._folder / MANIFEST).open("w", encoding="utf-8") as text:
            json.dump(manifest, text)
            text.flush()
            os.fsync(text.fileno())
        (self._folder / _DONE).unlink()

    def _resume(self, start: int) -> None:
        """Take up what an earlier run left, as far as images and lines agree."""
        self._lines.seek(0)
        size = self._images.seek(0, os.SEEK_END)
        images_end, lines_end = start, 0
        for line in self._lines:
            try:
                entry = json.loads(line)
            except ValueError:  # torn by the kill
                break
            after = images_end + entry["images"] * self._bytes
            if not line.endswith(b"\n") or after > size:
                break
            images_end, lines_end = after, lines_end + len(line)
            self._note(entry)
        self._images.truncate(images_end)
        self._lines.truncate(lines_end)

    def _note(self, entry: dict[str, Any]) -> None:
        self.done.append(entry)
        self.unreadable += bool(entry["reason"])


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """NumPy's file header; NumPy leaves room in it for the first axis to grow."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


class _Teller:
    """Passes progress on, but not more often than a person can see."""

    def __init__(self, source: Source, tell: Tell | None) -> None:
        self._source = str(source)
        self._tell = tell
        self._last = 0.0

    def __call__(self, stage: str, done: int, total: int, unreadable: int = 0) -> None:
        now = time.monotonic()
        if self._tell and (done == total or now - self._last >= _TELL_S):
            self._last = now
            self._tell(Progress(self._source, stage, done, total, unreadable))


@contextmanager
def _locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that ends with the process, telling while another has it."""
    lock = FileLock(file)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            waiting()
    try:
        yield
    finally:
        lock.release()


def _below(path: Path, root: Path) -> str:
    return str(path).removeprefix(os.path.join(root, ""))  # noqa: PTH118 (a tenth of pathlib's time)
