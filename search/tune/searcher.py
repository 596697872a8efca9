"""Ray Tune's Searcher over one Optuna study."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.tune.search import Searcher

from fdan.errors import FdanError
from search.study.trial_controller import TrialController
from search.tune.capacity import Capacity
from search.tune.grouping import SingleTrials
from search.tune.ray_session import check_ray_alive
from search.tune.resources import AVOID, CPUS, GPUS
from search.worker.messages import ASSIGNMENTS


class StopTune(BaseException):
    """Leaves Tune's loop at once.

    Tune's own way out waits up to 15 s for the epochs under way, which nobody will read. Not an
    Exception, so that Tune does not take it for a failure and tidy up in the same slow way.
    """


@contextlib.contextmanager
def stopping_tune() -> Iterator[None]:
    """Tune would bury an error that a user can mend (a full disk, say) in a traceback of its own;
    it travels as the cause of StopTune instead."""
    try:
        yield
    except FdanError as error:
        raise StopTune from error


class PicklesEmpty:
    """Pickles to an empty shell, so that open connections stay here.

    Tune pickles its searcher and scheduler into its own files. Nothing reads those: Optuna's
    storage is the truth.
    """

    def __reduce__(self) -> tuple[type[PicklesEmpty], tuple[()]]:
        return (PicklesEmpty, ())


class OptunaSearcher(PicklesEmpty, Searcher):  # type: ignore[misc]
    """Takes trials from the controller while there is room, and releases them when Tune is done.

    To Tune, a trial that goes on with another worker is a new one; its number is the same.

    Tune calls, from one thread: `suggest` for each trial; the scheduler's `on_trial_result` and
    then ours after each report, but not ours when the scheduler stops the trial;
    `on_trial_complete` once at its end, after the scheduler's `on_trial_complete` or
    `on_trial_error`. A trial that Tune gives up when the whole study is stopped is not announced
    to anybody: the driver finishes what is left.
    """

    def __init__(
        self, controller: TrialController, capacity: Capacity, grouping: SingleTrials
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._controller = controller
        self._capacity = capacity
        self._grouping = grouping
        self._numbers: dict[str, tuple[int, ...]] = {}

    def suggest(self, trial_id: str) -> dict[str, object] | str | None:
        with stopping_tune():
            if self._capacity.reserved or len(self._numbers) >= self._capacity.max_concurrent:
                return None
            assignments = self._grouping.next_assignments(self._controller)
            # Tune asks Ray's GCS about each new trial, and waits for one that ended meanwhile in
            # Ray's core, which gives up after a minute and the whole driver with it.
            check_ray_alive()
        if not assignments:
            if self._controller.active:
                return None  # one of them may have to go on with another worker
            finished: str = Searcher.FINISHED
            return finished
        self._numbers[trial_id] = tuple(assignment.number for assignment in assignments)
        return {
            ASSIGNMENTS: assignments,
            CPUS: self._capacity.resources.cpus,
            GPUS: max(assignment.gpu_fraction for assignment in assignments),
            AVOID: self._capacity.excluded_nodes,
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, object] | None = None, error: bool = False
    ) -> None:
        with stopping_tune():
            for number in self._numbers.pop(trial_id, ()):
                self._controller.release(number)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass
