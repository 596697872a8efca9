"""Reporting to the driver while the next epoch is trained.

Ray Tune blocks a trial in each report until the driver has dealt with it: some milliseconds in
which Optuna, the spool and the terminal are updated, a tenth of a short epoch.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ray import tune


class AsyncReporter:
    """Sends one trial's results to the driver, in order. A context manager.

    A trial that the driver stops ends by the SystemExit that Ray Tune raises, in whichever call
    comes next.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def report(self, result: Mapping[str, Any]) -> None:
        """Returns when the driver has dealt with the result before this one."""
        self._wait()
        # A daemon, so that it keeps no process alive whose driver is gone.
        self._thread = threading.Thread(target=self._send, args=(dict(result),), daemon=True)
        self._thread.start()

    def report_and_wait(self, result: Mapping[str, Any]) -> None:
        """Returns when the driver has dealt with this result, and lets the trial go on."""
        self.report(result)
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

    def _send(self, result: dict[str, Any]) -> None:
        try:
            tune.report(result)
        except BaseException as error:  # raised in the trial's own thread
            self._error = error

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
