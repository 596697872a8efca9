"""Telling the driver: a worker trains its next epoch while the driver hears of the last one.

Ray Tune holds a trial up from each report until the driver has dealt with it: some milliseconds in
which Optuna, the spool and the terminal are told, a tenth of a short epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from ray import tune


class Telling:
    """One trial's results on their way to the driver, in order; to be entered.

    A trial that the driver stops ends by the SystemExit that Ray Tune raises, in whichever call
    comes next.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="telling")
        self._told: Future[None] | None = None

    def soon(self, result: Mapping[str, Any]) -> None:
        """Returns when the driver has dealt with what it was told before this."""
        self._wait()
        self._told = self._thread.submit(tune.report, dict(result))

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
        try:
            # What comes next is Tune's: the function's return, or what it raised.
            self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            told.result()
