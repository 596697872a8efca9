"""Telling the driver: a worker trains its next epoch while the driver hears of the last one.

Ray Tune holds a trial up from each report until the driver has dealt with it: some milliseconds in
which Optuna, the spool and the terminal are told, a tenth of a short epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ray import tune


class Telling:
    """One trial's results on their way to the driver, in order; to be entered.

    A trial that the driver stops ends by the SystemExit that Ray Tune raises, in whichever call
    comes next.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._raised: BaseException | None = None

    def soon(self, result: Mapping[str, Any]) -> None:
        """Returns when the driver has dealt with what it was told before this."""
        self._wait()
        # A daemon, so that it keeps no process alive whose driver is gone.
        self._thread = threading.Thread(target=self._tell, args=(dict(result),), daemon=True)
        self._thread.start()

    def now(self, result: Mapping[str, Any]) -> None:
        """Returns when the driver has dealt with it, and lets the trial go on."""
        self.soon(result)
        self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._wait()  # what comes next is Tune's: the function's return, or what it raised

    def _tell(self, result: dict[str, Any]) -> None:
        try:
            tune.report(result)
        except BaseException as error:  # for the trial's own thread
            self._raised = error

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised
