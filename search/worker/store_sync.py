"""A study's stores on a cluster: published once in the folder that all nodes see, copied from there
once by each node, onto its own disk, whatever the number of its trials.

A copy is complete or absent, and is told from any other by the SHA-256 of what is in it: a node
whose copy differs takes no part in the study.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdan.data.store import IMAGES, MANIFEST
from fdan.errors import FdanError
from fdan.files import write_atomic
from fdan.lock import LockHeld, NoLocks, wait_for_lock
from fdan.machine.rights import explain

_LOCK_TIMEOUT_S = 900.0
"""How long another process may take to copy a store. NFS 3 keeps the lock of a node that is
gone."""


class NodeError(FdanError):
    """This node cannot take part in the study."""


@dataclass(frozen=True)
class PublishedStores:
    """Stores that every node can copy."""

    folder: Path  # has a folder of each store's name; all nodes see it
    digests: Mapping[str, str]  # SHA-256 of each store's files, by the store's name

    def local_copy(self, name: str, notify: Callable[[str], None]) -> Path:
        """This node's own copy, made now if there is none yet. Other processes of the node that
        ask meanwhile wait for it.

        Args:
            name: Name of the store.
            notify: Function that shows the user a line about this node.

        Raises:
            NodeError: The copy differs, or cannot be made.
        """
        home = os.environ.get("XDG_CACHE_HOME")
        cache = (Path(home) if home else Path.home() / ".cache") / "fdan-search" / "stores"
        copy, expected = cache / name, self.digests[name]
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with wait_for_lock(cache / f"{name}.lock", _LOCK_TIMEOUT_S):
                if not copy.is_dir():
                    began = time.monotonic()
                    _copy(self.folder / name, copy, expected)
                    size = sum(file.stat().st_size for file in copy.glob("*")) / 1e6
                    took = time.monotonic() - began
                    notify(f"has copied its data, {name}: {size:.1f} MB in {took:.1f} s")
                digest = _digest(copy, _digest_file(copy))
        except NoLocks as error:
            raise NodeError(str(error)) from None
        except LockHeld as error:
            raise NodeError(_lock_held(error)) from None
        except OSError as error:
            raise NodeError(
                f"{error.filename or copy}: {error.strerror or error}; it needs the study's data"
            ) from None
        if digest != expected:
            raise NodeError(
                f"its data in {copy} differ from the study's (SHA-256 {digest[:12]}, expected"
                f" {expected[:12]}): remove that folder there"
            )
        return copy


def publish_stores(stores: Sequence[Path], shared: Path) -> PublishedStores:
    """Copy those of the stores that are not there yet into `shared`.

    Args:
        stores: Folders of the study's stores, on the driver's node.
        shared: Folder that all nodes see (--shared).

    Raises:
        FdanError: `shared` cannot be written, or has other data under the name of a store.
    """
    folder, digests = shared / "stores", {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for store in stores:
            copy = folder / store.name
            with wait_for_lock(folder / f"{store.name}.lock", _LOCK_TIMEOUT_S):
                expected = _digest(store, folder / f"{store.name}.source.json")
                if not copy.is_dir():
                    _copy(store, copy, expected)
                digest = _digest(copy, _digest_file(copy))
            if digest != expected:
                raise FdanError(
                    f"--shared {shared}: {copy} differs from {store} (SHA-256 {digest[:12]},"
                    f" expected {expected[:12]}): remove it, it is published anew"
                )
            digests[store.name] = expected
    except LockHeld as error:
        raise FdanError(f"--shared {shared}: {_lock_held(error)}") from None
    except OSError as error:
        raise FdanError(f"--shared {shared}: {explain(error, folder)}") from None
    return PublishedStores(folder, digests)


def _lock_held(error: LockHeld) -> str:
    return (
        f"{error.path} has been held for {_LOCK_TIMEOUT_S / 60:.0f} minutes: where no machine"
        " copies into that folder any more, remove it"
    )


def _digest_file(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.json")


def _copy(source: Path, target: Path, expected: str) -> None:
    """Copy a store, whole or not at all, under the target's lock. Raises OSError where what arrives
    has another digest than expected."""
    partial = target.with_name(f".{target.name}")  # may be left from a process that was killed
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        digest = _digest(partial, _digest_file(target))
        if digest != expected:
            _digest_file(target).unlink()
            raise OSError(0, f"not the study's data (SHA-256 {digest[:12]})", str(source))
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _digest(store: Path, cache: Path) -> str:
    """A store's digest, under its lock. The file `cache` remembers it for as long as the store's
    files are the same, whatever their folder's name."""
    stats = [(store / name).stat() for name in (MANIFEST, IMAGES)]
    state = [[stat.st_size, stat.st_mtime_ns, stat.st_ino] for stat in stats]
    try:
        cached = json.loads(cache.read_text(encoding="utf-8"))
        if cached["state"] == state:
            return str(cached["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    sha256 = hashlib.sha256()
    for name in (MANIFEST, IMAGES):
        with (store / name).open("rb") as file:
            hashlib.file_digest(file, lambda: sha256)
        sha256.update(b"|")
    digest = sha256.hexdigest()
    write_atomic(cache, json.dumps({"sha256": digest, "state": state}))
    return digest
