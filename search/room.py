"""Whether a cluster that others run still has a node that can hold a trial. Ray itself waits for
one in silence, for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.resources import Resources

_EVERY_S = 5.0
_PATIENCE_S = 15.0
"""Nodes come and go; so long without room is worth a word."""


class Room:
    """Says when the cluster's last node with room for a trial is gone, and when there is one
    again. Trials wait for it meanwhile; an autoscaler may bring it."""

    def __init__(
        self,
        each: Resources,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        say: Callable[[str], None],
    ) -> None:
        """nodes: ray.nodes or one like it."""
        self._each = each
        self._nodes = nodes
        self._say = say
        self._looked = self._there = time.monotonic()
        self._said = False

    def look(self) -> None:
        """To be called several times a second."""
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        if any(self._fits(node) for node in self._nodes()):
            self._there = now
            if self._said:
                self._say("the cluster has a node for the trials again")
            self._said = False
        elif not self._said and now - self._there >= _PATIENCE_S:
            self._said = True
            self._say(
                f"no node of the cluster can hold a trial ({self._each}): the study waits for one,"
                " nothing is lost (Ctrl-C lets it rest)"
            )

    def _fits(self, node: Mapping[str, Any]) -> bool:
        held = node.get("Resources", {})
        return (
            bool(node.get("Alive"))
            and held.get("CPU", 0.0) >= self._each.cpus
            and held.get("GPU", 0.0) >= self._each.gpus
        )
