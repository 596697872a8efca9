"""The signal that ends a study early: Ctrl-C, SIGTERM, a spent time budget, early stopping
(search/callbacks/early_stopping.py), or trials that all fail (search/callbacks/fail_fast.py). The
time budget (`--time-budget`) begins anew with each start, in search/stages.py.

An interruption (Ctrl-C, a signal, failing trials) leaves the running trials to the next driver,
which resumes them. A study that finishes early (time budget, early stopping) ends them. Errors end
a study as interruptions do: a full disk, a lost storage, a Ray that is lost again and again.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class _Interruption:
    reason: str = ""
    code: int = 0


class StopSignal:
    """Whether a study's search, or its confirmation, should end before its trials are done."""

    def __init__(self, time_budget_s: float | None = None) -> None:
        """time_budget_s: Seconds from now after which the trials end."""
        self._deadline = math.inf if time_budget_s is None else time.monotonic() + time_budget_s
        self._interruption = _Interruption()
        self._finished = ""

    @property
    def reason(self) -> str:
        """Why the study ends, in words; empty while it does not."""
        return self._finished or self._interruption.reason

    @property
    def final(self) -> bool:
        """Whether the study is finished, so that the running trials end with it."""
        return bool(self._finished)

    @property
    def code(self) -> int:
        """Exit code of an interruption; 0 without one."""
        return self._interruption.code

    def request(self, reason: str, code: int) -> None:
        """Interrupt the study.

        Args:
            reason: Reason in words.
            code: Exit code of the process.
        """
        if not self._interruption.reason:
            self._interruption.reason, self._interruption.code = reason, code

    def finish(self, reason: str) -> None:
        """Finish the study early."""
        if not self.reason:
            self._finished = reason

    def due(self) -> bool:
        """Whether the study should end now."""
        if time.monotonic() >= self._deadline:
            self.finish("the time budget is spent")
        return bool(self.reason)

    def for_confirmation(self) -> StopSignal:
        """A signal for the confirmation: the same interruption ends both, but a search that
        finished early is still confirmed."""
        after = StopSignal()
        after._interruption = self._interruption
        return after


@contextlib.contextmanager
def stop_on_signals(stop: StopSignal, notify: Callable[[str], None]) -> Iterator[None]:
    """While this context is open, the first Ctrl-C or SIGTERM interrupts the study; a second Ctrl-C
    raises KeyboardInterrupt.

    Args:
        stop: Signal that is requested.
        notify: Function that shows the user what happens, from a thread of its own.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        name = "stopped by the user" if number == signal.SIGINT else "stopped by a signal"
        stop.request(name, 128 + number)
        # In a thread: the interrupted one may hold a lock that printing needs.
        text = (
            "stopping: the same command continues the study, its running trials from their newest"
            " checkpoints (Ctrl-C again: at once)"
        )
        threading.Thread(target=notify, args=(text,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
