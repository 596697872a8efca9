"""Which trials train together, as one: those of one shape, each up to the next epoch at which the
pruner compares. There Optuna decides, and whoever goes on is grouped anew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

from search.optimizer.space import Value
from search.study.trial_controller import Bridge, Waiting
from search.worker.messages import Turn

_AHEAD = 2
"""Groups that the trials that wait could fill, at most: the more there are, the fuller the groups,
and the less does the sampler know when it draws their settings."""


class Groups:
    """Gives trials of a bridge their turns, up to `most` at a time.

    kind: trials of one kind can train together; None: one that trains alone. rung: the epoch after
    the given one at which the pruner compares next.
    """

    def __init__(
        self,
        most: int = 1,
        kind: Callable[[Mapping[str, Value]], Hashable | None] = lambda _: None,
        rung: Callable[[int], int] = lambda _: 0,
    ) -> None:
        self.most = most
        self._kind = kind
        self._rung = rung
        self._kinds: dict[int, Hashable] = {}

    def turns(self, bridge: Bridge) -> tuple[Turn, ...]:
        """For one worker; empty where no trial waits and none is left to ask for."""
        if self.most == 1:
            if bridge.waiting:
                return (bridge.again(),)
            return (bridge.ask(),) if bridge.left else ()
        while bridge.left and bridge.waiting < _AHEAD * self.most:
            if len(self._largest(bridge.queue)) >= self.most:
                break
            bridge.draw()
        for one in bridge.queue:  # few, and a group is soon found for the others
            if self._kind_of(one) is None:
                return (bridge.again(one.number),)
            if one.suspect:  # alone until it has survived the epoch
                return (bridge.again(one.number, one.epoch + 1),)
        chosen = self._largest(bridge.queue)[: self.most]
        return tuple(bridge.again(one.number, self._rung(one.epoch)) for one in chosen)

    def smaller(self, than: int) -> None:
        """A group of so many was too much for a GPU."""
        self.most = max(1, min(self.most, than // 2))

    def _largest(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Trials of one kind: of the kind that most have, of several such the first."""
        alike = defaultdict[Hashable, list[Waiting]](list)
        for one in waiting:
            kind = self._kind_of(one)
            if kind is not None and not one.suspect:
                alike[kind].append(one)
        return max(alike.values(), key=len, default=[])

    def _kind_of(self, one: Waiting) -> Hashable | None:
        if one.number not in self._kinds:
            self._kinds[one.number] = self._kind(one.params)
        return self._kinds[one.number]
