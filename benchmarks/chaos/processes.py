"""Processes as /proc shows them: who descends from whom, what it is called, and signals that never
reach another process that has got the same number since."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, even after its end: number and start time together come once."""

    pid: int
    started: int
    """Clock ticks since the machine's start."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process of that number."""
        facts = _stat(pid)
        return None if facts is None or facts.state in "ZX" else cls(pid, facts.started)

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: signal.Signals) -> bool:
        """Whether the process was there to get it."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if not self.alive:  # looked at after opening: the handle is this process's for good
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except OSError:
            return False
        finally:
            os.close(handle)

    @property
    def title(self) -> str:
        """What `ps` shows: its command line, or what it has put there."""
        try:
            line = (_PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return ""
        return line.replace(b"\0", b" ").decode("utf-8", "replace").strip()

    @property
    def name(self) -> str:
        """Of its program, at most 15 characters."""
        facts = _stat(self.pid)
        return "" if facts is None else facts.name

    @property
    def files(self) -> list[str]:
        """Paths that it has open."""
        found = []
        with contextlib.suppress(OSError):
            for link in (_PROC / str(self.pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found.append(str(link.readlink()))
        return found


def descendants(ancestor: int) -> list[Process]:
    """Living processes below `ancestor`."""
    children: dict[int, list[Process]] = {}
    for pid in _pids():
        facts = _stat(pid)
        if facts is not None and facts.state not in "ZX":
            children.setdefault(facts.parent, []).append(Process(pid, facts.started))
    found, waiting = [], [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def marked(mark: str) -> list[Process]:
    """Living processes that were started with `mark` (NAME=VALUE) in their environment, wherever
    they hang in the tree by now."""
    wanted, found = mark.encode(), []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                process = Process.of(pid)
                if process is not None:
                    found.append(process)
    return found


@dataclass(frozen=True)
class _Stat:
    name: str
    state: str
    parent: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name is in brackets and may hold brackets and blanks of its own.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return _Stat(head.partition("(")[2], fields[0], int(fields[1]), int(fields[19]))


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
