"""How many trials the cluster's nodes can run at once. Nodes come and go; Ray itself waits for one
in silence, for ever."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.config.spec import TrialResources
from search.worker.messages import GpuFault, NodeRejected

_UPDATE_INTERVAL_S = 2.0
_PATIENCE_S = 15.0  # nodes come and go; only after this long without capacity is the user notified

_MAX_GPU_FAULTS = 2  # in a row on one node, which is free at once for trial after trial


@dataclass
class Capacity:
    """How many trials may run at once on the cluster, as of the last `update`.

    Notifies when that changes, when the last node that can hold a trial is gone, and when there is
    one again. Trials wait for it meanwhile; an autoscaler may bring it.
    """

    resources: TrialResources  # of one trial
    nodes: Callable[[], Sequence[Mapping[str, Any]]]  # `ray.nodes`, or a function like it
    requested: int | None = None  # trials at once; None for as many as fit
    # Start `requested` trials even where not all fit yet: an autoscaler sees those that wait.
    grows: bool = False
    notify: Callable[[str], None] = lambda _: None  # shows the user a line
    on_change: Callable[[int], None] = lambda _: None  # called with the new `max_concurrent`
    # Whether no trial may start: one that needs more than `resources` waits for its place.
    reserved: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._excluded: dict[str, str] = {}
        self._gpu_faults: dict[str, int] = {}
        self._updated_at = self._available_at = time.monotonic()
        self._notified = False
        self._available = self._count()

    @property
    def max_concurrent(self) -> int:
        """Trials that may run or wait for a worker at a time, at least one."""
        if self.requested is not None and self.grows:
            return self.requested
        return max(1, min(self._available, self.requested or self._available))

    @property
    def excluded_nodes(self) -> tuple[str, ...]:
        """Ids of the nodes that run no trial of this study."""
        return tuple(sorted(self._excluded))

    def exclude(self, rejected: NodeRejected) -> None:
        """Run no trial on the node any more."""
        if rejected.node not in self._excluded:
            self._excluded[rejected.node] = rejected.reason
            self.notify(f"a node takes no part in the study: {rejected.reason}")

    def gpu_fault(self, fault: GpuFault) -> None:
        """The GPU of a trial on the node broke down. The second time in a row the node is excluded,
        unless it is the last one that can hold a trial."""
        self._gpu_faults[fault.node] = self._gpu_faults.get(fault.node, 0) + 1
        if self._gpu_faults[fault.node] >= _MAX_GPU_FAULTS and self._count(without=fault.node):
            self.exclude(NodeRejected(fault.reason, fault.node))

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
            self.on_change(self.max_concurrent)
        if self._available:
            self._available_at = now
            if self._notified:
                self.notify(f"the cluster has room again: for {self._available} trials at once")
            elif before not in (0, self._available):
                self.notify(
                    f"the cluster has room for {self._available} trials at once, not {before}"
                )
            self._notified = False
        elif not self._notified and now - self._available_at >= _PATIENCE_S:
            self._notified = True
            excluded = "".join(f"; {reason}" for reason in self._excluded.values())
            self.notify(
                f"no node of the cluster can hold a trial ({self.resources}): the study waits for"
                f" one, nothing is lost (Ctrl-C lets it rest){excluded}"
            )

    def _count(self, without: str = "") -> int:
        return sum(
            _trials_fitting(self.resources, node.get("Resources", {}))
            for node in self.nodes()
            if node.get("Alive") and node.get("NodeID") not in (without, *self._excluded)
        )


def _trials_fitting(resources: TrialResources, node: Mapping[str, float]) -> int:
    """How many trials fit a node with such resources, by Ray's names.

    >>> _trials_fitting(TrialResources(2), {"CPU": 5.0})
    2
    >>> _trials_fitting(TrialResources(1, 0.4), {"CPU": 9.0, "GPU": 2.0})
    4
    """
    count = int(node.get("CPU", 0.0) // resources.cpus)
    if resources.gpus:
        # Fractions do not add up: two trials of 0.4 fit a GPU, five do not fit two.
        per_gpu = int(1 / resources.gpus + 1e-9) if resources.gpus <= 1 else 1 / resources.gpus
        count = min(count, int(node.get("GPU", 0.0) * per_gpu))
    return count
