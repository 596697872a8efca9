"""A study's stores on a cluster: published once in the folder that all nodes see, copied from there
once by each node, onto its own disk, whatever the number of its trials.

A copy is complete or absent, and is told from any other by the SHA-256 of what is in it: a node
whose copy differs takes no part in the study.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from fdan.data.store import IMAGES, MANIFEST
from fdan.errors import FdanError
from fdan.files import write_atomic

_CHUNK = 4 * 2**20

_PATIENCE_S = 900.0
"""How long somebody else may take to copy a store. NFS 3 keeps the lock of a node that is gone."""


class Refused(FdanError):  # noqa: N818
    """This node cannot take part in the study."""


@dataclass(frozen=True)
class Published:
    """Stores that every node can have."""

    folder: Path
    """Where they lie, each in a folder of its own name; all nodes see it."""
    digests: Mapping[str, str]
    """Of each store's files, by the store's name."""

    def here(self, name: str, say: Callable[[str], None]) -> Path:
        """This node's own copy, made now if there is none yet; other processes of the node that ask
        meanwhile wait for it.

        Raises Refused where the copy differs, or cannot be made.
        """
        cache = _cache()
        copy, seen, wanted = cache / name, cache / f"{name}.json", self.digests[name]
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f"{name}.lock", timeout=_PATIENCE_S):
                if not copy.is_dir():
                    began = time.monotonic()
                    _copied(self.folder / name, copy, seen, wanted)
                    size = sum(file.stat().st_size for file in copy.glob("*")) / 1e6
                    took = time.monotonic() - began
                    say(f"has copied its data, {name}: {size:.1f} MB in {took:.1f} s")
                found = _known(copy, seen)
        except Timeout as error:
            raise Refused(_held(error)) from None
        except OSError as error:
            raise Refused(
                f"{error.filename or copy}: {error.strerror or error}; it needs the study's data"
            ) from None
        if found != wanted:
            raise Refused(
                f"its data in {copy} differ from the study's (SHA-256 {found[:12]}, expected"
                f" {wanted[:12]}): remove that folder there"
            )
        return copy


def publish(stores: Sequence[Path], shared: Path) -> Published:
    """Put what is not there yet of these stores into `shared`. Raises FdanError where it cannot be
    written, or holds other data under the name of one of them."""
    folder, digests = shared / "stores", {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for store in stores:
            there, seen = folder / store.name, folder / f"{store.name}.json"
            with FileLock(folder / f"{store.name}.lock", timeout=_PATIENCE_S):
                wanted = _known(store, seen.with_name(f"{store.name}.source.json"))
                if not there.is_dir():
                    _copied(store, there, seen, wanted)
                found = _known(there, seen)
            if found != wanted:
                raise FdanError(
                    f"--shared {shared}: {there} differs from {store} (SHA-256 {found[:12]},"
                    f" expected {wanted[:12]}): remove it, it is published anew"
                )
            digests[store.name] = wanted
    except Timeout as error:
        raise FdanError(f"--shared {shared}: {_held(error)}") from None
    except OSError as error:
        place = error.filename or folder
        raise FdanError(f"--shared {shared}: {place}: {error.strerror or error}") from None
    return Published(folder, digests)


def _held(error: Timeout) -> str:
    return (
        f"{error.lock_file} has been held for {_PATIENCE_S / 60:.0f} minutes: where no machine"
        " copies into that folder any more, remove it"
    )


def _cache() -> Path:
    """Where this node keeps its copies."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fdan-search" / "stores"


def _copied(source: Path, target: Path, seen: Path, wanted: str) -> None:
    """Copy a store, whole or not at all, under the target's lock. Raises OSError where what arrives
    is not what was wanted."""
    partial = target.with_name(f".{target.name}")  # of one that was killed, too
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        found = _known(partial, seen)
        if found != wanted:
            seen.unlink()
            raise OSError(0, f"not the study's data (SHA-256 {found[:12]})", str(source))
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _known(store: Path, seen: Path) -> str:
    """A store's digest, under its lock. `seen` remembers it, for as long as the files are the
    same, whatever their folder's name."""
    state = _state(store)
    try:
        facts = json.loads(seen.read_text(encoding="utf-8"))
        if facts["state"] == state:
            return str(facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = _digest(store)
    write_atomic(seen, json.dumps({"sha256": digest, "state": state}))
    return digest


def _digest(store: Path) -> str:
    digest = hashlib.sha256()
    for name in (MANIFEST, IMAGES):
        with (store / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        digest.update(b"|")
    return digest.hexdigest()


def _state(store: Path) -> list[list[int]]:
    """What changes when one of a store's files does."""
    stats = [(store / name).stat() for name in (MANIFEST, IMAGES)]
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in stats]
