"""The sender: a thread that sends the spool's records to the server, in order, and retries for as
long as it takes. Nothing that a server does ends it, and nothing waits for it."""

import logging
import random
import threading
import time
from typing import Final

from tracking.backend.server import Server, ServerUnavailable, ServerUnusable
from tracking.outbox.delivery import Delivery, RunLost
from tracking.outbox.delivery_state import DeliveryState, Target
from tracking.outbox.spool import Reader, Spool
from tracking.record import Record
from tracking.uri import mask_password

log = logging.getLogger(__name__)

WINDOW: Final = 2000  # records delivered at once; after a failure at most so many are sent again
LINGER: Final = 10.0
"""Seconds to gather records before sending: a call costs about the same for one or a hundred, and
the trials lose that time. `drain` sends at once."""

FIRST_PAUSE: Final = 0.5  # seconds between retries of an unavailable server, doubling up to:
LONGEST_PAUSE: Final = 30.0
SUSPECT_AFTER: Final = 8  # failures in a row before a batch is suspected and not the server


class Sender(threading.Thread):
    """Begins with `start()`, ends with `stop()`."""

    def __init__(self, spool: Spool, target: Target) -> None:
        super().__init__(name="tracking-sender", daemon=True)
        self._spool = spool
        self._uri = mask_password(target.uri)
        self.state = DeliveryState(spool, self._uri)
        self.server = Server(target.uri, target.experiment, target.artifacts(spool.folder))
        self._delivery = Delivery(spool, self.state, self.server)
        self._reader = Reader(spool, self.state.sent)
        self._window: list[Record] = []
        self._caught_up_at = 0
        self._failures = 0
        self.unavailable_since: float | None = None
        """Seconds since 1970 when the server was found unavailable; None while it works."""
        self.reason = ""  # why it is unavailable, in its own or the system's words
        self.unusable = False  # whether it is of no use until somebody mends it
        self._wake = threading.Event()
        self._progress = threading.Condition()
        self._stopping = False

    def drain(self, timeout: float) -> bool:
        """Wait until the server has all that is recorded now. False after `timeout` s, or after one
        more try of a server that is unusable."""
        target, failures = self._spool.last, self._failures
        deadline = time.monotonic() + timeout
        try:
            self._spool.sync()
        except OSError:
            return False
        self._wake.set()  # also during a pause: the end of a study is worth a try at once
        with self._progress:
            while self.state.sent < target:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self.is_alive():
                    return False
                if self.unusable and self._failures > failures:
                    return False
                self._progress.wait(min(remaining, 0.5))
                if self.unavailable_since is None:
                    self._wake.set()
        return True

    def stop(self) -> None:
        """End after the current call. What is not sent stays in the spool."""
        self._stopping = True
        self._wake.set()
        self.join(5.0)

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
            self.state.advance(self._window[-1].number)
            for record in self._window:
                if record.kind == "artifact":
                    self._spool.drop(record.data["kept"])
        except RunLost as lost:
            self._start_over(*lost.args)
            return 0.0
        except Exception as error:  # of any kind: the study continues, and so does the thread
            return self._failed(error)
        more = len(self._window) == WINDOW
        self._window = []
        self._succeeded()
        return 0.0 if more else LINGER

    def _start_over(self, run: str, reason: str) -> None:
        """Send everything again to a server that lost its runs: records are never deleted. A run
        that is lost twice on the way is given up."""
        log.warning(
            f"the tracking server no longer has run '{run}' ({reason}); sending all"
            f" {self._spool.last} records again"
        )
        self._delivery.given_up.add(run)
        self._caught_up_at = self._window[-1].number
        self.state.runs, self.state.sent = {}, 0
        self._reader = Reader(self._spool)
        self._window = []

    def _succeeded(self) -> None:
        if self.state.sent >= self._caught_up_at:
            # Found again: a later loss is a new one. A run that was never created stays given up.
            self._delivery.given_up -= self.state.runs.keys()
        if self.unavailable_since is not None:
            minutes, seconds = divmod(round(time.time() - self.unavailable_since), 60)
            log.warning(
                f"tracking server {self._uri} is back after"
                f" {f'{minutes} min ' if minutes else ''}{seconds} s;"
                f" {self._spool.last - self.state.sent} records to send"
            )
        self._failures, self.unavailable_since, self.reason, self.unusable = 0, None, "", False

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        self.reason = str(error) if isinstance(error, ServerUnavailable) else repr(error)
        self.unusable = isinstance(error, ServerUnusable)
        if self.unavailable_since is None:
            self.unavailable_since = time.time()
            what = f"tracking server {self._uri} {'of no use' if self.unusable else 'away'}"
            if isinstance(error, OSError):  # the server's own errors are ServerUnavailable
                self.reason = f"{self._spool.folder}: {error.strerror or error}"
                what = "sending to the tracking server stopped"
            log.warning(
                f"{what} since {time.strftime('%H:%M:%S')} ({self.reason}): records are kept in"
                f" {self._spool.folder}, nothing is lost"
            )
        try:
            if self._failures % SUSPECT_AFTER == 0 and self._delivery.single_out(self.reason):
                return 0.0
        except Exception as trouble:  # e.g. no room for the note of it
            log.debug(f"could not single out a record: {trouble!r}")
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        return pause * random.uniform(0.75, 1.0)  # several studies must not retry in step
