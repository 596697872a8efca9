"""One promotion at a time, in whatever process on whatever host. The alias `champion` is moved only
under this lock.

MLflow has no compare-and-set. What it has is tags on the registered model: a promotion writes a tag
of its own there and only then reads which others there are. Of two at once at least one sees the
other's, and whoever sees another's withdraws: so no two hold the lock. A tag whose process is dead,
or that is older than any promotion takes, is removed. Beside an SQLite database a lock file makes
promotions wait for each other without polling MLflow; it ends with its process, however that ends.
"""

import contextlib
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdan.lock import Lock, LockHeld
from fdan.machine.rights import explain
from tracking.registry.registry import CHAMPION, ModelVersion, Registry, RegistryError, ignore_error
from tracking.tags import PROMOTING_PREFIX

_STALE_S: Final = 1800.0
"""A tag of another host that is older belongs to a dead process; clocks may differ by minutes."""


@dataclass(frozen=True)
class PromotionLock:
    """Held by one process at a time, for one registered model."""

    _registry: Registry
    _key: str

    def check_champion(self, expected: ModelVersion | None) -> None:
        """RegistryError unless the lock is still held, and the champion still is the version that
        was compared with. MLflow cannot compare and set: this is called right before anything is
        moved, and `set_champion` reads the alias again afterwards."""
        if self._key not in self._registry.tags():
            raise RegistryError(
                f"{self._registry.name}: another promotion took this one for dead; run it again"
            )
        number = self._registry.aliases().get(CHAMPION)
        if number != (None if expected is None else expected.number):
            named = f"version {number}" if number else "no version"
            raise RegistryError(
                f"somebody made {named} of {self._registry.name} champion in the meantime; nothing"
                " was moved, run it again"
            )

    def set_champion(self, version: ModelVersion) -> None:
        """Move the alias `champion`. Raises RegistryError if somebody else moved it as well."""
        name = version.name
        self._registry.client.set_registered_model_alias(name, CHAMPION, version.number)
        after = self._registry.aliases().get(CHAMPION)
        if after != version.number:
            raise RegistryError(
                f"somebody made version {after} of {name} champion at the same moment, in place of"
                f" {version}; look at: python -m tracking champion --name {name}"
            )


@contextlib.contextmanager
def promotion_lock(
    registry: Registry, log: Callable[[str], None], timeout: float = 300.0
) -> Iterator[PromotionLock]:
    """Wait for the lock, hold it, and release it at the end. Raises RegistryError if another
    promotion keeps it.

    Args:
        registry: Registry; its model must be registered.
        log: Function that is given a line when another promotion is waited for.
        timeout: Maximum waiting time [s].
    """
    deadline = time.monotonic() + timeout
    with _file_lock(registry, deadline, log):
        key = PROMOTING_PREFIX + secrets.token_hex(8)
        while True:
            value = f"{os.getpid()} {time.time():.0f} {socket.gethostname()}"
            registry.client.set_registered_model_tag(registry.name, key, value)
            try:
                if (other := _other_holder(registry, key)) is None:
                    yield PromotionLock(registry, key)
                    return
            finally:
                with contextlib.suppress(RegistryError):  # it must not hide what went wrong
                    registry.client.delete_registered_model_tag(registry.name, key)
            if time.monotonic() > deadline:
                raise RegistryError(
                    f"{registry.name} is being promoted by {other}; try again later"
                )
            time.sleep(random.uniform(0.1, 1.0))


def _other_holder(registry: Registry, own_key: str) -> str | None:
    """Another living process that has a tag; None if there is none. Tags of the dead are
    removed."""
    for key, value in registry.tags().items():
        if not key.startswith(PROMOTING_PREFIX) or key == own_key:
            continue
        try:
            pid, since, host = value.split()
            dead = time.time() - float(since) > _STALE_S
            if host == socket.gethostname():
                with contextlib.suppress(PermissionError):  # another user's
                    os.kill(int(pid), 0)
        except ProcessLookupError:
            dead = True
        except ValueError:
            pid, host, dead = "?", "?", True
        if not dead:
            return f"process {pid} on {host}"
        with ignore_error("RESOURCE_DOES_NOT_EXIST"):
            registry.client.delete_registered_model_tag(registry.name, key)
    return None


def _file_lock(
    registry: Registry, deadline: float, log: Callable[[str], None]
) -> contextlib.AbstractContextManager[object]:
    if registry.database is None:
        return contextlib.nullcontext()
    path, logged = Path(f"{registry.database}.promoting"), False
    while True:
        try:
            return Lock(path)  # it waits for a moment itself
        except LockHeld as conflict:
            if time.monotonic() > deadline:
                raise RegistryError(f"{conflict}; try again later") from None
            if not logged:
                log(f"waiting for another promotion ({conflict.owner or 'another process'})")
                logged = True
        except OSError as error:
            raise RegistryError(f"it cannot be locked: {explain(error, path)}") from None
