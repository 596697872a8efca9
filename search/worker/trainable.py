"""A trial, or several that train together, inside a worker. Nothing here knows Optuna's study or
MLflow: a trial gets settings, reports epochs, and keeps its newest checkpoint and what it reported
in the folder of its number, from where another worker goes on if this one dies."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from fdan.errors import DeviceError, FdanError, disk_full
from fdan.files import write_atomic
from fdan.lock import Lock, LockHeld, lock_is_held_by
from search.tune.resources import GPUS, TURNS
from search.worker.async_report import AsyncReporter
from search.worker.messages import (
    BROKEN,
    FAILED,
    FULL,
    LOST,
    NODE,
    NOTE,
    REFUSED,
    REPORT,
    STARVED,
    Report,
    Turn,
)
from search.worker.store_sync import NodeError
from search.worker.trial_folder import trial_folder


@dataclass(frozen=True)
class Assignment:
    """What a worker is asked to run."""

    number: int
    params: Mapping[str, Any]
    after: int
    """The last epoch that is reported already."""
    until: int
    """The epoch that it ends with, or rests after."""
    folder: Path
    """The trial's own, made already: <study>/trials/0007. No other worker writes there."""
    threads: int
    """CPU threads that belong to this trial."""
    gpus: float = 0.0
    """Its share of GPUs. Less than 1: the part of the GPU's memory that is the trial's."""
    say: Callable[[str], None] = lambda _: None
    """Tells whoever watches a line about this node."""


Trainable = Callable[[Assignment, Callable[[Report], None]], None]
"""Runs a trial to its end and reports each epoch. Raises FdanError for what the settings or the
data did (the worker goes on to the next trial); any other exception ends the worker too."""

Tell = Callable[[Mapping[int, Report], Mapping[int, str]], None]
"""Told of trials by number: an epoch of some, and why others failed."""

Together = Callable[[Sequence[Assignment], Tell], None]
"""Runs several trials as one, each to its `until`. What it raises is no verdict on any of them:
they go on one by one."""


class Crashed(Exception):  # noqa: N818
    """A trial's exception in one message; its traceback is in error.txt."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:300])


class Broken(Crashed):
    """The worker's GPU has broken down: another worker may go on with the trial."""


_THREAD_TIMEOUT = "TUNE_FUNCTION_THREAD_TIMEOUT_S"
_THREAD_TIMEOUT_S = 24 * 3600
"""How long a worker that is to be reused waits for its last trial to end, which may be at the start
of an epoch when it is stopped. Where Tune waits in vain, by default for 2 s, it loses the next
trial without a word."""

_STORAGE_GONE = (errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EACCES, errno.EPERM)
"""What a mount says that has broken down, or belongs to somebody else."""


def function(
    train: Trainable,
    study: Path,
    threads: int,
    home: str = "",
    together: Together | None = None,
) -> Callable[[dict[str, Any]], None]:
    """`train`, and `together` for several, as a function for Ray Tune, whose config is what
    search.tune.placement says. study: the folder in which `trials` is, as this node sees it; home:
    on a cluster, Ray's id of the driver's node."""

    def run(turns: Sequence[Turn], gpus: float, reporter: AsyncReporter) -> None:
        decided = {turn.number: (*turn.decided, turn.until) for turn in turns}

        def ends(number: int, report: Report) -> bool:
            """Whether the driver may end the trial for what it hears."""
            return report.epoch in decided[number] or not math.isfinite(report.value)

        def tell(reports: Mapping[int, Report], failed: Mapping[int, str]) -> None:
            result = {REPORT: [*reports.items()], FAILED: [*failed.items()], NODE: node()}
            if failed or any(ends(number, report) for number, report in reports.items()):
                reporter.report_and_wait(result)
            else:
                reporter.report(result)

        assignments = []
        for turn in turns:
            folder = trial_folder(study, turn.number)
            _made(folder)
            assignments.append(
                Assignment(
                    turn.number,
                    turn.params,
                    turn.after,
                    turn.until,
                    folder,
                    threads,
                    gpus,
                    lambda text: reporter.report_and_wait({NOTE: f"{_address()} {text}"}),
                )
            )
        with contextlib.ExitStack() as alone:
            until = time.monotonic() + _ORPHAN_S
            for assignment in assignments:
                alone.enter_context(_alone(assignment.folder, until))
            if len(assignments) > 1:
                assert together is not None
                together(assignments, tell)
            else:
                (one,) = assignments
                train(one, lambda report: tell({one.number: report}, {}))

    def fdan_trial(config: dict[str, Any]) -> None:
        turns: Sequence[Turn] = config[TURNS]
        os.environ[_THREAD_TIMEOUT] = str(_THREAD_TIMEOUT_S)
        with AsyncReporter() as reporter:
            try:
                run(turns, config[GPUS], reporter)
            except Exception as error:
                _ended(error, turns, reporter)

    def _ended(error: Exception, turns: Sequence[Turn], reporter: AsyncReporter) -> None:
        """Tell what a turn came to that did not end well; raises what ends the worker, too."""
        folders = [trial_folder(study, turn.number) for turn in turns]
        elsewhere = home not in ("", node())
        if isinstance(error, NodeError):
            reporter.report_and_wait({REFUSED: f"{_address()}: {error}", NODE: node()})
        elif isinstance(error, DeviceError) and home:
            # The cluster's node: the trial may go on elsewhere.
            reporter.report_and_wait({REFUSED: f"{_address()}: {error}", NODE: node()})
        elif isinstance(error, FdanError):
            reporter.report_and_wait(_failed(turns, error))
        elif isinstance(error, LockHeld):
            reporter.report_and_wait({LOST: str(error)})
        elif disk_full(error):
            reporter.report_and_wait({FULL: getattr(error, "filename", None) or str(folders[0])})
        elif elsewhere and isinstance(error, OSError) and error.errno in _STORAGE_GONE:
            # Trial after trial would fail here, each at once.
            reporter.report_and_wait({REFUSED: f"{_address()}: {error}", NODE: node()})
        else:
            for folder in folders:
                _keep(folder / "error.txt", "".join(traceback.format_exception(error)))
            if _out_of_gpu_memory(error):
                with contextlib.suppress(Exception):
                    sys.modules["torch"].cuda.empty_cache()
                reporter.report_and_wait({STARVED: "out of GPU memory"})
            elif _out_of_memory(error):
                reporter.report_and_wait({LOST: "out of memory"})
            elif _of_the_gpu(error):
                told = " ".join(str(error).split("\n", 1)[0].split())
                reporter.report_and_wait({BROKEN: f"{_address()}: {told}", NODE: node()})
                raise Broken(told) from None
            else:
                # Whatever state this process is in, no other trial should inherit it.
                raise Crashed(f"{type(error).__name__}: {error}") from None

    return fdan_trial


def _failed(turns: Sequence[Turn], error: FdanError) -> dict[str, Any]:
    """Of several, nobody knows whose fault it was."""
    if len(turns) > 1:
        return {LOST: str(error)}
    return {FAILED: [(turns[0].number, str(error))]}


def _made(folder: Path) -> None:
    """Make a trial's folder, and none above it: where those are missing, this node does not see the
    storage that the driver's does, and nobody else would see what is written here."""
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise NodeError(
            f"{folder.parent} is not there, and is on the driver's node: mount the shared storage"
        ) from None


_ORPHAN_S = 150.0
"""How long a trial waits for a worker that has it still. NFS 4 lets go of what a node that died
held after 90 s; a node that is merely cut off from its cluster ends its workers after 60 s."""


def node() -> str:
    """Ray's id of the node that this process is on; empty without Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _address() -> str:
    return str(ray.util.get_node_ip_address())


def _hosts() -> set[str]:
    """Names of the machines that this process's cluster has now."""
    nodes = ray.nodes() if ray.is_initialized() else []
    alive = {str(node["NodeManagerHostname"]) for node in nodes if node["Alive"]}
    return {socket.gethostname(), *alive}


@contextlib.contextmanager
def _alone(folder: Path, until: float) -> Iterator[None]:
    """Inside, no other worker has the trial in `folder`; one that has it is waited for `until` this
    monotonic time.

    One that has is left over from a driver that died, since a driver gives a trial to one worker at
    a time: it is ended here, for Ray takes its time over that. Or it was on a node that is lost:
    NFS 3 keeps the locks of a machine that never comes back for ever, so that the trial gets a new
    lock file.
    """
    path = folder / "lock"
    while True:
        try:
            lock = Lock(path)
            break
        except LockHeld as held:
            if time.monotonic() > until:
                if held.owner is not None and held.owner.host in _hosts():
                    raise
                path.unlink(missing_ok=True)
            elif held.owner is not None and lock_is_held_by(held.owner, path):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(held.owner.pid, signal.SIGKILL)
        time.sleep(0.1)
    with lock:
        yield


def _out_of_gpu_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    # CUDA's own libraries have no class for it.
    marks = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _of_the_gpu(error: Exception) -> bool:
    marks = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _out_of_memory(error: Exception) -> bool:
    """Of the machine: torch says so in words only."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _keep(path: Path, text: str) -> None:
    """For whoever looks for the cause; a disk that refuses it must not hide the cause itself."""
    with contextlib.suppress(OSError):
        write_atomic(path, text)
