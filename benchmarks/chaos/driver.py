"""One driver process of a subject, its output, and the processes below it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from benchmarks.chaos.processes import Process, descendants
from benchmarks.chaos.stores import Life

TRACEBACK: Final = "Traceback (most recent call last)"


class Driver:
    """Started when made. Its stdout and stderr go to files of their own."""

    def __init__(
        self, command: list[str], environment: dict[str, str], output: Path, clock: float
    ) -> None:
        """output: its files' name without the ending; clock: when the campaign began, as
        time.monotonic() had it."""
        output.parent.mkdir(parents=True, exist_ok=True)
        self._files = {kind: output.with_suffix(f".{kind}") for kind in ("out", "err")}
        self._clock = clock
        self.began = time.monotonic()
        self.faults: list[str] = []
        self.starting: list[str] = []
        """Those of its faults that came while it started."""
        self.startup: float | None = None
        """Seconds until its first worker ran a trial, once it has."""
        self._killed = False
        with self._files["out"].open("wb") as out, self._files["err"].open("wb") as err:
            self._popen = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=output.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        process = Process.of(self._popen.pid)
        assert process is not None
        self.process = process

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    @property
    def age(self) -> float:
        """Seconds."""
        return time.monotonic() - self.began

    def kill(self) -> None:
        """SIGKILL to it alone; what is below it learns of that as it would from a crash."""
        if self._popen.poll() is None:
            self._killed = True
            self.process.signal(signal.SIGKILL)
        self._popen.wait()

    def of_ray(self, name: str) -> Process | None:
        """That process of its Ray, once there is one."""
        return next((p for p in descendants(self.process.pid) if p.name == name), None)

    def workers(self) -> list[Process]:
        """Actors that run a trial just now; between two reports of theirs Ray names them otherwise,
        and prestarted workers too."""
        return [p for p in descendants(self.process.pid) if p.title.endswith(".train")]

    def life(self) -> Life:
        """What is known of it after its end."""
        time.sleep(
            0.5
        )  # who speaks for a driver that could not (search.tune.ray_session) does it now
        texts = {kind: file.read_text("utf-8", "replace") for kind, file in self._files.items()}
        plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", texts["err"])
        lines = [line.strip() for line in plain.splitlines() if line.strip()]
        return Life(
            self.began - self._clock,
            time.monotonic() - self._clock,
            None if self._killed else self._popen.returncode,
            lines[-1] if lines else "",
            sum(text.count(TRACEBACK) for text in texts.values()),
            tuple(self.faults),
            tuple(self.starting),
        )
