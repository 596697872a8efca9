"""One promotion at a time, whoever and wherever they are.

MLflow has no compare-and-set. What it has is tags on the registered model: a promotion writes a
claim of its own there and only then reads whose there are. Of two at once at least one sees the
other's, and whoever sees another's withdraws: so no two hold it. A claim whose process is dead, or
that is older than any promotion takes, is swept away. Beside an SQLite database a lock's file makes
them wait for each other in peace; it ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from fdan.lock import Lock, LockHeld
from tracking.registry.registry import Registry, RegistryError
from tracking.tags import PROMOTING_PREFIX
from tracking.uri import sqlite_file

_STALE_S: Final = 1800.0
"""A claim of another host that is older is a dead one's; clocks may differ by minutes."""


class Claim:
    """Held by one process at a time, for one registered model."""

    def __init__(self, registry: Registry, key: str) -> None:
        self._registry = registry
        self._key = key

    def check(self) -> None:
        """RegistryError if somebody has taken the claim away in the meantime."""
        if self._key not in self._registry.notes():
            raise RegistryError(
                f"{self._registry.name}: another promotion took this one for dead; run it again"
            )


@contextlib.contextmanager
def claimed(registry: Registry, patience: float, say: Callable[[str], None]) -> Iterator[Claim]:
    """Wait for the claim up to `patience` seconds, hold it, and let go of it at the end. The model
    must be registered. Raises RegistryError where somebody else keeps it."""
    until = time.monotonic() + patience
    with _locked(registry, until, say):
        key = PROMOTING_PREFIX + secrets.token_hex(8)
        while True:
            registry.note(key, f"{os.getpid()} {time.time():.0f} {socket.gethostname()}")
            try:
                other = _other(registry, key)
                if other is None:
                    yield Claim(registry, key)
                    return
            finally:
                with contextlib.suppress(RegistryError):  # it must not hide what went wrong
                    registry.note(key, None)
            if time.monotonic() > until:
                raise RegistryError(
                    f"{registry.name} is being promoted by {other}; try again later"
                )
            time.sleep(random.uniform(0.1, 1.0))


def _other(registry: Registry, key: str) -> str | None:
    """Who else claims it, in words; None where nobody does. Claims of the dead are removed."""
    for name, value in registry.notes().items():
        if not name.startswith(PROMOTING_PREFIX) or name == key:
            continue
        try:
            process, since, host = value.split()
            dead = time.time() - float(since) > _STALE_S
            dead = dead or (host == socket.gethostname() and not _lives(int(process)))
        except ValueError:
            process, host, dead = "?", "?", True
        if not dead:
            return f"process {process} on {host}"
        registry.note(name, None)
    return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _locked(registry: Registry, until: float, say: Callable[[str], None]) -> Iterator[None]:
    database = sqlite_file(registry.uri)
    if database is None:
        yield
        return
    path = Path(f"{database}.promoting")
    told = False
    while True:
        try:
            lock = Lock(path)
            break
        except LockHeld as held:
            if time.monotonic() > until:
                raise RegistryError(f"{held}; try again later") from None
            if not told:
                say(f"waiting for another promotion ({held.owner or 'another process'})")
                told = True
            time.sleep(0.2)
        except OSError as error:
            raise RegistryError(f"{path} cannot be made ({error.strerror})") from None
    with lock:
        yield
