"""The promotion lock, on a real server."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tracking.registry.promotion_lock import promotion_lock
from tracking.registry.registry import Registry, RegistryError

if TYPE_CHECKING:
    from conftest import MlflowServer

pytestmark = pytest.mark.long


def test_the_lock_is_held_by_one(server: MlflowServer) -> None:
    """On a server there is no lock's file: whoever sees the tag of another withdraws."""
    registry = Registry(server.uri, f"lock-{time.time_ns()}")
    registry.create()
    with promotion_lock(registry, print, 5) as lock:
        lock.check_champion(None)
        with (
            pytest.raises(RegistryError, match="is being promoted by process"),
            promotion_lock(registry, print, 0.5),
        ):
            pass
        lock.check_champion(None)
    assert not registry.tags()


def test_of_many_one_at_a_time_holds_the_lock(server: MlflowServer) -> None:
    name = f"lock-{time.time_ns()}"
    Registry(server.uri, name).create()
    inside: list[int] = []
    held = []

    def promoting(number: int) -> None:
        registry = Registry(server.uri, name)
        for _ in range(2):
            with promotion_lock(registry, print, 60):
                inside.append(number)
                time.sleep(0.1)
                held.append(list(inside))
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(promoting, range(4)))
    assert len(held) == 8 and all(len(one) == 1 for one in held)


@pytest.mark.parametrize(
    "dead", ["999999999 {host} {now}", "1 another-host 1000", "nonsense"], ids=str.split
)
def test_tags_of_dead_processes_are_removed(server: MlflowServer, dead: str) -> None:
    import socket

    registry = Registry(server.uri, f"lock-{time.time_ns()}")
    registry.create()
    value = dead.format(host=socket.gethostname(), now=time.time())
    registry.client.set_registered_model_tag(registry.name, "fdan.promoting.dead", value)
    with promotion_lock(registry, print, 0.5):
        assert "fdan.promoting.dead" not in registry.tags()


def test_a_lock_that_was_taken_away_is_noticed(server: MlflowServer) -> None:
    registry = Registry(server.uri, f"lock-{time.time_ns()}")
    registry.create()
    with promotion_lock(registry, print, 5) as lock:
        for key in registry.tags():
            registry.client.delete_registered_model_tag(registry.name, key)
        with pytest.raises(RegistryError, match="took this one for dead"):
            lock.check_champion(None)
