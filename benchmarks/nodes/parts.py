"""Where a driver's time goes: the part that each thread is in, looked up many times a second."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

_ROOT: Final = Path(__file__).parents[2]
_EVERY_S: Final = 0.004

WAITING: Final = "waiting for workers"
TUNE: Final = "Ray Tune's own loop"
OTHER: Final = "anything else"
CORE: Final = "Ray's core, threads of C++"

_WRITER: Final = f"{_ROOT}/search/study/writer.py"
_PARTS: Final = (
    # (path, functions or all, part): the innermost frame that one of these holds for decides.
    ("/ray/_private/worker.py", ("wait",), WAITING),
    ("/optuna/storages/journal/_file.py", (), "Optuna's journal on disk"),
    ("/optuna/pruners/", (), "pruner"),
    ("/optuna/samplers/", (), "sampler"),
    (f"{_ROOT}/tracking/", (), "records into the spool"),
    (f"{_ROOT}/search/callbacks/mlflow.py", (), "records into the spool"),
    (f"{_ROOT}/search/callbacks/progress.py", (), "progress display"),
    (f"{_ROOT}/search/callbacks/checkpoint_retention.py", (), "checkpoints dropped"),
    (_WRITER, ("create_trial", "draw"), "Optuna: ask, suggest"),
    (_WRITER, ("pruned",), "pruner"),
    (_WRITER, ("report", "finish"), "Optuna: report, tell"),
)
_OTHERWISE: Final = (
    (f"{_ROOT}/search/", "the rest of ours"),
    ("/ray/", TUNE),
)
_THREADS: Final = (
    # (start of a thread's name or its class, part)
    ("tracking-sender", "MLflow: the sender's thread"),
    ("figures", "figures: the drawing thread"),
    ("spool", "records into the spool"),
    ("_RefreshThread", "progress display"),
)


class Parts:
    """Inside, once `begun` says so, samples where this thread and all others are. Seconds by part:

    wall  of the thread that entered, CPU time and waiting
    cpu   of all threads of the process
    """

    def __init__(self, begun: Callable[[], bool]) -> None:
        self._begun = begun
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self._thread = threading.Thread(target=self._sample, name="sampling", daemon=True)
        self._ended = threading.Event()
        self._clocks: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._driver = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._begun():
            if self._ended.wait(_EVERY_S):
                return
        whole, own = time.process_time(), time.thread_time()
        self._clocks.update((ident, clock) for ident, _, clock in _clocks())
        last = time.perf_counter()
        while not self._ended.wait(_EVERY_S):
            now, frames = time.perf_counter(), sys._current_frames()
            for ident, name, clock in _clocks():
                spent, self._clocks[ident] = clock - self._clocks.get(ident, 0.0), clock
                if ident == self._driver:
                    part = part_of(frames[ident])
                    self.wall[part] += now - last
                elif ident == threading.get_ident():
                    continue
                else:
                    part = next((to for start, to in _THREADS if name.startswith(start)), OTHER)
                self.cpu[part] += spent
            last = now
        spent = time.process_time() - whole - (time.thread_time() - own)
        self.cpu[CORE] = max(0.0, spent - sum(self.cpu.values()))


def part_of(frame: FrameType | None) -> str:
    """The part that a stack is in."""
    stack = []
    while frame is not None:
        path, function = frame.f_code.co_filename, frame.f_code.co_name
        for where, functions, part in _PARTS:
            if where in path and (not functions or function in functions):
                return part
        stack.append(path)
        frame = frame.f_back
    for path in stack:
        for where, part in _OTHERWISE:
            if where in path:
                return part
    return OTHER


def _clocks() -> Iterator[tuple[int, str, float]]:
    """(ident, name, CPU seconds) of each thread that Python knows."""
    for thread in threading.enumerate():
        if thread.ident is None:
            continue
        kind = type(thread).__name__
        name = thread.name if kind == "Thread" or thread.name[:7] != "Thread-" else kind
        try:
            yield thread.ident, name, time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        except OSError:  # it has just ended
            continue
