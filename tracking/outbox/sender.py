"""The sender: a thread that sends the spool's records to the server, in order, and retries for as
long as it takes. Nothing that a server does ends it, and nothing waits for it."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Final

from tracking.backend.server import Server, ServerUnavailable, ServerUnusable
from tracking.outbox.delivery import Delivery, RunLost
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.reader import Reader
from tracking.outbox.spool import Spool
from tracking.record import Record
from tracking.uri import mask_password

log = logging.getLogger(__name__)

WINDOW: Final = 2000
"""Records delivered at once; after a failure at most so many are sent again."""

LINGER: Final = 10.0
"""Seconds to gather records before sending: a call costs about the same for one or a hundred, and
the trials lose that time. `drain` sends at once."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Seconds between retries of an unavailable server: the first, doubling up to the longest."""

SUSPECT_AFTER: Final = 8
"""Failures in a row before a batch is suspected and not the server."""


class Sender(threading.Thread):
    """Begins with `start()`, ends with `stop()`."""

    def __init__(self, spool: Spool, state: DeliveryState, server: Server) -> None:
        super().__init__(name="tracking-sender", daemon=True)
        self._spool = spool
        self._state = state
        self._uri = mask_password(server.uri)
        self._delivery = Delivery(spool, state, server)
        self._reader = Reader(spool, state.sent)
        self._window: list[Record] = []
        self._caught_up_at = 0
        self._failures = 0
        self._unavailable_since: float | None = None
        self._reason = ""
        self._unusable = False
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._stopping = False

    @property
    def unavailable_since(self) -> float | None:
        """Seconds since 1970 when the server was found unavailable; None while it works."""
        return self._unavailable_since

    @property
    def reason(self) -> str:
        """Why it is unavailable, in its own or the system's words."""
        return self._reason

    @property
    def unusable(self) -> bool:
        """Whether the server is of no use until somebody mends it."""
        return self._unusable

    def drain(self, timeout: float) -> bool:
        """Wait until the server has all that is recorded now. False after `timeout` s, or after one
        more try of a server that is unusable."""
        target, deadline = self._spool.last, time.monotonic() + timeout
        failures = self._failures
        try:
            self._spool.sync()
        except OSError:
            return False
        self._wake.set()  # also during a pause: the end of a study is worth a try at once
        with self._progress:
            while self._state.sent < target:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self.is_alive():
                    return False
                if self._unusable and self._failures > failures:
                    return False
                self._progress.wait(min(remaining, 0.5))
                if self._unavailable_since is None:
                    self._wake.set()
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """End after the current call. What is not sent stays in the spool."""
        self._stopping = True
        self._wake.set()
        if self.is_alive():
            self.join(timeout)

    def run(self) -> None:
        pause = 0.0
        while not self._stopping:
            self._wake.wait(pause)
            self._wake.clear()
            if not self._stopping:
                pause = self._deliver_window()
                with self._progress:
                    self._progress.notify_all()

    def _deliver_window(self) -> float:
        """Deliver the next window, or the last one again. Returns seconds to wait."""
        try:
            self._window = self._window or self._reader.take(WINDOW)
            if not self._window:
                return LINGER
            self._delivery.deliver(self._window)
            self._state.advance(self._window[-1].number)
            for record in self._window:
                if record.kind == "artifact":
                    self._spool.drop(record.data["kept"])
        except RunLost as lost:
            self._start_over(lost)
            return 0.0
        except Exception as error:  # of any kind: the study continues, and so does the thread
            return self._failed(error)
        more = len(self._window) == WINDOW
        self._window = []
        self._succeeded()
        return 0.0 if more else LINGER

    def _start_over(self, lost: RunLost) -> None:
        """Send everything again to a server that lost its runs: records are never deleted. A run
        that is lost twice on the way is given up."""
        log.warning(
            "the tracking server no longer has run '%s' (%s); sending all %d records again",
            lost.run,
            lost,
            self._spool.last,
        )
        self._delivery.given_up.add(lost.run)
        self._caught_up_at = self._window[-1].number
        self._state.forget()
        self._reader.rewind(0)
        self._window = []

    def _succeeded(self) -> None:
        if self._delivery.given_up and self._state.sent >= self._caught_up_at:
            # Found again: a later loss is a new one. A run that was never created stays given up.
            self._delivery.given_up = {
                run for run in self._delivery.given_up if self._state.run_id(run) is None
            }
        if self._unavailable_since is not None:
            log.warning(
                "tracking server %s is back after %s; %d records to send",
                self._uri,
                _duration(time.time() - self._unavailable_since),
                self._spool.last - self._state.sent,
            )
        self._failures, self._unavailable_since, self._reason = 0, None, ""
        self._unusable = False

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        self._reason = str(error) if isinstance(error, ServerUnavailable) else repr(error)
        self._unusable = isinstance(error, ServerUnusable)
        if self._unavailable_since is None:
            self._unavailable_since = time.time()
            since = time.strftime("%H:%M:%S", time.localtime(self._unavailable_since))
            what = f"tracking server {self._uri} {'of no use' if self._unusable else 'away'}"
            if isinstance(error, OSError):  # the server's own errors are ServerUnavailable
                self._reason = f"{self._spool.folder}: {error.strerror or error}"
                what = "sending to the tracking server stopped"
            log.warning(
                "%s since %s (%s): records are kept in %s, nothing is lost",
                what,
                since,
                self._reason,
                self._spool.folder,
            )
        try:
            if self._failures % SUSPECT_AFTER == 0 and self._delivery.single_out(self._reason):
                return 0.0
        except Exception as trouble:  # e.g. no room for the note of it
            log.debug("could not single out a record: %r", trouble)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        return pause * random.uniform(0.75, 1.0)  # several studies must not retry in step


def _duration(seconds: float) -> str:
    """
    >>> _duration(42.3), _duration(3750)
    ('42 s', '62 min 30 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
