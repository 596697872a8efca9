"""Ray Tune's Searcher over one Optuna study."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.tune.search import Searcher

from fdan.errors import FdanError
from search.study.trial_controller import Bridge
from search.tune.capacity import Capacity
from search.tune.grouping import Groups
from search.tune.ray_session import check_ray_alive
from search.tune.resources import AVOID, CPUS, GPUS, TURNS


class Stopped(BaseException):
    """Leaves Tune's loop at once.

    Tune's own way out waits up to 15 s for the epochs under way, which nobody will read. Not an
    Exception, so that Tune does not take it for a failure and tidy up in the same slow way.
    """


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Tune would bury an error that a user can mend (a full disk, say) in a traceback of its own;
    it travels as the cause of Stopped instead."""
    try:
        yield
    except FdanError as error:
        raise Stopped from error


class OptunaSearcher(Searcher):  # type: ignore[misc]
    """Takes trials from the bridge while there is room, and lets go of them when Tune is done.

    To Tune, trials that train together are one, and a trial that goes on with another worker is a
    new one; its number is the same.

    Tune calls, from one thread: `suggest` for each trial; the scheduler's `on_trial_result` and
    then ours after each report, but not ours when the scheduler stops the trial;
    `on_trial_complete` once at its end, after the scheduler's `on_trial_complete` or
    `on_trial_error`. A trial that Tune gives up when the whole study is stopped is not announced
    to anybody: the driver closes what is left.

    Tune pickles its searcher into `tuner.pkl` and its snapshots. Nothing reads those: Optuna's
    storage is the truth. So this pickles to an empty shell, and open connections stay here.
    """

    def __init__(self, bridge: Bridge, capacity: Capacity, groups: Groups) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge
        self._capacity = capacity
        self._groups = groups
        self._numbers: dict[str, tuple[int, ...]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        with leaving():
            if self._capacity.reserved or len(self._numbers) >= self._capacity.max_concurrent:
                return None
            turns = self._groups.turns(self._bridge)
            # Tune asks Ray's GCS about each new trial, and waits for one that ended meanwhile in
            # Ray's core, which gives up after a minute and the whole driver with it.
            check_ray_alive()
        if not turns:
            if self._bridge.live:
                return None  # one of them may have to go on with another worker
            finished: str = Searcher.FINISHED
            return finished
        self._numbers[trial_id] = tuple(turn.number for turn in turns)
        return {
            TURNS: turns,
            CPUS: self._capacity.resources.cpus,
            GPUS: max(turn.gpus for turn in turns),
            AVOID: self._capacity.excluded_nodes,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        with leaving():
            for number in self._numbers.pop(trial_id, ()):
                self._bridge.let_go(number)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass

    def __reduce__(self) -> tuple[Any, ...]:
        return (Shell, ())


class Shell:
    """What the searcher and the scheduler leave in Tune's files."""
