"""Why a study should end before its trials are done: Ctrl-C, a signal, a budget, or enough."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Stop:
    """Why the study should end before its trials are done, if it should."""

    def __init__(self, budget: float | None = None) -> None:
        """`budget`: seconds from now."""
        self._deadline = None if budget is None else time.monotonic() + budget
        self.reason = ""
        self.final = False
        """Whether the trials under way end with it: those of a spent budget do, and those of a
        study that has enough."""
        self.code = 0
        """Exit code: that of the signal, 0 for a budget that is spent."""

    def renew(self) -> None:
        """A budget that is spent ends the search, not what comes after it."""
        if self.final and not self.code:
            self.reason, self.final = "", False
        self._deadline = None

    def request(self, reason: str, code: int) -> None:
        self.reason, self.code = self.reason or reason, self.code or code

    def enough(self, reason: str) -> None:
        """The study is finished, as with a spent budget."""
        if not self.reason:
            self.reason, self.final = reason, True

    def due(self) -> bool:
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason, self.final = "the time budget is spent", True
        return bool(self.reason)


@contextlib.contextmanager
def signals(stop: Stop, say: Any) -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM asks the study to stop; a second Ctrl-C insists."""

    def handle(number: int, frame: FrameType | None) -> None:
        name = "stopped by the user" if number == signal.SIGINT else "stopped by a signal"
        stop.request(name, 128 + number)
        # In a thread: the one that is interrupted may hold a lock that printing needs.
        text = (
            "stopping: the same command continues the study, its running trials from their newest"
            " checkpoints (Ctrl-C again: at once)"
        )
        threading.Thread(target=say, args=(text,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
