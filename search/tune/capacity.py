"""How many trials the nodes have room for. Nodes come and go; Ray itself waits for one in silence,
for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.tune.resources import Resources

_EVERY_S = 2.0
_PATIENCE_S = 15.0
"""Nodes come and go; so long without room is worth a word."""

_BREAKDOWNS = 2
"""Of a node's GPU in a row. Few: such a node is free at once, and would take trial after trial."""


class Room:
    """The room for trials on the cluster that is up, as of the last `look`.

    Says when it changes, when the last node with room is gone, and when there is one again. Trials
    wait for it meanwhile; an autoscaler may bring it.
    """

    def __init__(
        self,
        each: Resources,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        say: Callable[[str], None] = lambda _: None,
        wanted: int | None = None,
        grows: bool = False,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """nodes: ray.nodes or one like it; wanted: trials at once; grows: so many are under way
        even where there is no room for them yet, since those that wait are what an autoscaler sees;
        changed: is told how many may be under way."""
        self.each = each
        self.held = False
        """Whether no trial may join those under way: one of them needs more than `each`, and has no
        place yet."""
        self._nodes = nodes
        self._say = say
        self._wanted = wanted
        self._grows = grows
        self._changed = changed
        self._refused: dict[str, str] = {}
        self._broken: dict[str, int] = {}
        self._looked = self._there = time.monotonic()
        self._said = False
        self._fit = self._fitting()

    @property
    def at_once(self) -> int:
        """Trials that may be under way at a time, at least one."""
        if self._wanted is not None and self._grows:
            return self._wanted
        return max(1, min(self._fit, self._wanted or self._fit))

    @property
    def refused(self) -> tuple[str, ...]:
        """Ids of the nodes that take no part."""
        return tuple(sorted(self._refused))

    def refuse(self, node: str, why: str) -> None:
        """A node takes no part in the study any more."""
        if node not in self._refused:
            self._refused[node] = why
            self._say(f"a node takes no part in the study: {why}")

    def broke(self, node: str, why: str) -> None:
        """The GPU of a trial on the node broke down. The second time in a row the node takes no
        part any more, unless it is the last one."""
        self._broken[node] = self._broken.get(node, 0) + 1
        if self._broken[node] >= _BREAKDOWNS and self._fitting(without=node):
            self.refuse(node, why)

    def works(self, node: str) -> None:
        """A trial has finished an epoch on the node."""
        self._broken.pop(node, None)

    def look(self) -> None:
        """To be called several times a second."""
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        before, self._fit = self._fit, self._fitting()
        if before != self._fit:
            self._changed(self.at_once)
        if self._fit:
            self._there = now
            if self._said:
                self._say(f"the cluster has room again: for {self._fit} trials at once")
            elif before not in (0, self._fit):
                self._say(f"the cluster has room for {self._fit} trials at once, not {before}")
            self._said = False
        elif not self._said and now - self._there >= _PATIENCE_S:
            self._said = True
            refused = "".join(f"; {why}" for why in self._refused.values())
            self._say(
                f"no node of the cluster can hold a trial ({self.each}): the study waits for one,"
                f" nothing is lost (Ctrl-C lets it rest){refused}"
            )

    def _fitting(self, without: str = "") -> int:
        return sum(
            fitting(self.each, node.get("Resources", {}))
            for node in self._nodes()
            if node.get("Alive") and node.get("NodeID") not in (without, *self._refused)
        )


def fitting(each: Resources, held: Mapping[str, float]) -> int:
    """Trials that fit a node.

    >>> fitting(Resources(2), {"CPU": 5.0}), fitting(Resources(1, 0.4), {"CPU": 9.0, "GPU": 2.0})
    (2, 4)
    """
    room = int(held.get("CPU", 0.0) // each.cpus)
    if each.gpus:
        # Fractions do not add up: two trials of 0.4 fit a GPU, five do not fit two.
        per_gpu = int(1 / each.gpus + 1e-9) if each.gpus <= 1 else 1 / each.gpus
        room = min(room, int(held.get("GPU", 0.0) * per_gpu))
    return room
