"""How many trials the cluster's nodes can run at once. Nodes come and go; Ray itself waits for one
in silence, for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.config.spec import TrialResources

_UPDATE_INTERVAL_S = 2.0
_PATIENCE_S = 15.0
"""Nodes come and go; only after this long without capacity is the user notified."""

_MAX_GPU_FAULTS = 2
"""In a row on one node. Few: such a node is free at once, and would take trial after trial."""


class Capacity:
    """How many trials may run at once on the cluster, as of the last `update`.

    Notifies when that changes, when the last node that can hold a trial is gone, and when there is
    one again. Trials wait for it meanwhile; an autoscaler may bring it.
    """

    def __init__(
        self,
        resources: TrialResources,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        *,
        requested: int | None = None,
        grows: bool = False,
        notify: Callable[[str], None] = lambda _: None,
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        """
        Args:
            resources: Resources of one trial.
            nodes: `ray.nodes`, or a function like it.
            requested: Trials at once; None for as many as fit.
            grows: Start `requested` trials even where not all of them fit yet: the ones that wait
                are what an autoscaler sees.
            notify: Function that shows the user a line.
            on_change: Function that is called with the new `max_concurrent`.
        """
        self.resources = resources
        self.reserved = False
        """Whether no trial may start: one of the running ones needs more than `resources`, and
        waits for its place."""
        self._nodes = nodes
        self._requested = requested
        self._grows = grows
        self._notify = notify
        self._on_change = on_change
        self._excluded: dict[str, str] = {}
        self._gpu_faults: dict[str, int] = {}
        self._updated_at = self._available_at = time.monotonic()
        self._notified = False
        self._available = self._count()

    @property
    def max_concurrent(self) -> int:
        """Trials that may run or wait for a worker at a time, at least one."""
        if self._requested is not None and self._grows:
            return self._requested
        return max(1, min(self._available, self._requested or self._available))

    @property
    def excluded_nodes(self) -> tuple[str, ...]:
        """Ids of the nodes that run no trial of this study."""
        return tuple(sorted(self._excluded))

    def exclude(self, node: str, reason: str) -> None:
        """Run no trial on the node any more.

        Args:
            node: Ray's id of the node.
            reason: Reason, shown to the user.
        """
        if node not in self._excluded:
            self._excluded[node] = reason
            self._notify(f"a node takes no part in the study: {reason}")

    def gpu_fault(self, node: str, reason: str) -> None:
        """The GPU of a trial on the node broke down. The second time in a row the node is excluded,
        unless it is the last one that can hold a trial.

        Args:
            node: Ray's id of the node.
            reason: Error of the GPU.
        """
        self._gpu_faults[node] = self._gpu_faults.get(node, 0) + 1
        if self._gpu_faults[node] >= _MAX_GPU_FAULTS and self._count(without=node):
            self.exclude(node, reason)

    def epoch_done(self, node: str) -> None:
        """A trial has finished an epoch on the node, so its GPU works."""
        self._gpu_faults.pop(node, None)

    def update(self) -> None:
        """Count again, at most every two seconds. The driver calls it several times a second."""
        now = time.monotonic()
        if now - self._updated_at < _UPDATE_INTERVAL_S:
            return
        self._updated_at = now
        before, self._available = self._available, self._count()
        if before != self._available:
            self._on_change(self.max_concurrent)
        if self._available:
            self._available_at = now
            if self._notified:
                self._notify(f"the cluster has room again: for {self._available} trials at once")
            elif before not in (0, self._available):
                self._notify(
                    f"the cluster has room for {self._available} trials at once, not {before}"
                )
            self._notified = False
        elif not self._notified and now - self._available_at >= _PATIENCE_S:
            self._notified = True
            excluded = "".join(f"; {reason}" for reason in self._excluded.values())
            self._notify(
                f"no node of the cluster can hold a trial ({self.resources}): the study waits for"
                f" one, nothing is lost (Ctrl-C lets it rest){excluded}"
            )

    def _count(self, without: str = "") -> int:
        return sum(
            trials_fitting(self.resources, node.get("Resources", {}))
            for node in self._nodes()
            if node.get("Alive") and node.get("NodeID") not in (without, *self._excluded)
        )


def trials_fitting(resources: TrialResources, node: Mapping[str, float]) -> int:
    """How many trials fit a node.

    >>> trials_fitting(TrialResources(2), {"CPU": 5.0})
    2
    >>> trials_fitting(TrialResources(1, 0.4), {"CPU": 9.0, "GPU": 2.0})
    4

    Args:
        resources: Resources of one trial.
        node: Resources of the node by Ray's names.
    """
    count = int(node.get("CPU", 0.0) // resources.cpus)
    if resources.gpus:
        # Fractions do not add up: two trials of 0.4 fit a GPU, five do not fit two.
        per_gpu = int(1 / resources.gpus + 1e-9) if resources.gpus <= 1 else 1 / resources.gpus
        count = min(count, int(node.get("GPU", 0.0) * per_gpu))
    return count
