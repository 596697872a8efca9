"""A trial inside a worker, as a function for Ray Tune. It knows neither Optuna's study nor MLflow:
a trial gets settings, reports epochs, and keeps its newest checkpoint and its log of epochs in the
folder of its number, from where another worker goes on if this one dies."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from fdan.files import first_line, write_atomic
from fdan.lock import Lock, LockHeld, lock_is_held_by
from search.worker.async_report import AsyncReporter
from search.worker.failures import (
    GpuFaultError,
    TrialError,
    Worker,
    expected_failure,
    machine_failure,
)
from search.worker.messages import (
    ASSIGNMENTS,
    MESSAGE,
    EpochDone,
    EpochResult,
    GpuFault,
    Note,
    OutOfGpuMemory,
    TrialAssignment,
    WorkerMessage,
)
from search.worker.store_sync import NodeError
from search.worker.trial_folder import trial_folder

_ORPHAN_S = 150.0
"""How long a trial waits for a worker that still has it. NFS 4 releases the locks of a node that
died after 90 s; a node that is merely cut off from its cluster ends its workers after 60 s."""

_THREAD_TIMEOUT = "TUNE_FUNCTION_THREAD_TIMEOUT_S"
_THREAD_TIMEOUT_S = 24 * 3600
"""How long a worker that is to be reused waits for its last trial to end, which may be at the start
of an epoch when it is stopped. Where Tune waits in vain, by default for 2 s, it loses the next
trial without a word."""


@dataclass(frozen=True, kw_only=True)
class TrialContext(TrialAssignment):
    """An assignment, and what the worker has for it."""

    folder: Path
    """The trial's own, made already: <study>/trials/0007. No other worker writes there."""
    threads: int = 1
    """CPU threads that belong to this trial."""
    notify: Callable[[str], None] = lambda _: None
    """Shows the user a line about this node."""


Train = Callable[[TrialContext, Callable[[EpochResult], None]], None]
"""Trains a trial up to its stop epoch and reports each epoch. Raises FdanError for what the
settings or the data did (the worker goes on to the next trial); any other exception ends the worker
too."""


Trainable = Callable[[dict[str, Any]], None]
"""A function for Ray Tune, whose config has ASSIGNMENTS."""


@dataclass(frozen=True)
class WorkerSetup:
    """What is the same for all trials of a run of Ray Tune."""

    study: Path
    """The folder in which `trials` is, as this node sees it."""
    threads: int
    """CPU threads of a trial."""
    driver_node: str = ""
    """On a cluster, Ray's id of the driver's node."""


def make_trainable(train: Train, setup: WorkerSetup) -> Trainable:
    """A function for Ray Tune, whose config has ASSIGNMENTS.

    Args:
        train: Function that trains a trial.
        setup: Setup that all trials share.
    """

    def run(reporter: AsyncReporter, trials: Sequence[TrialContext]) -> None:
        (trial,) = trials

        def report(result: EpochResult) -> None:
            message = {MESSAGE: EpochDone(result, node_id())}
            if awaits_decision(trial, result):
                reporter.report_and_wait(message)
            else:
                reporter.report(message)

        train(trial, report)

    def fdan_trial(config: dict[str, Sequence[TrialAssignment]]) -> None:
        run_assignments(config[ASSIGNMENTS], setup, run)

    return fdan_trial


def awaits_decision(trial: TrialAssignment, result: EpochResult) -> bool:
    """Whether the driver may end a trial after an epoch, so that nothing is trained meanwhile.

    Args:
        trial: Context of the trial.
        result: Result of the epoch.
    """
    decision_epochs = (*trial.decision_epochs, trial.stop_epoch)
    return result.epoch in decision_epochs or not math.isfinite(result.value)


def run_assignments(
    assignments: Sequence[TrialAssignment],
    setup: WorkerSetup,
    run: Callable[[AsyncReporter, Sequence[TrialContext]], None],
) -> None:
    """Have a worker's trials run while no other worker has them. An exception is reported to the
    driver in the words of search.worker.failures; one that ends the worker is raised, too.

    Args:
        assignments: The trials.
        setup: Setup that all trials share.
        run: Function that runs them and reports their epochs.
    """
    os.environ[_THREAD_TIMEOUT] = str(_THREAD_TIMEOUT_S)
    folders = [trial_folder(setup.study, assignment.number) for assignment in assignments]
    with AsyncReporter() as reporter:

        def send(message: WorkerMessage) -> None:
            reporter.report_and_wait({MESSAGE: message})

        def notify(text: str) -> None:
            send(Note(f"{_address()} {text}"))

        try:
            for folder in folders:
                _make_trial_folder(folder)
            trials = [
                TrialContext(
                    **vars(assignment), folder=folder, threads=setup.threads, notify=notify
                )
                for assignment, folder in zip(assignments, folders, strict=True)
            ]
            with contextlib.ExitStack() as locks:
                until = time.monotonic() + _ORPHAN_S
                for folder in folders:
                    locks.enter_context(_locked(folder, until))
                run(reporter, trials)
        except Exception as error:
            worker = Worker(node_id(), _address(), setup.driver_node)
            _report_failure(error, worker, folders, send)


def _report_failure(
    error: Exception,
    worker: Worker,
    folders: Sequence[Path],
    send: Callable[[WorkerMessage], None],
) -> None:
    """Tell the driver; raises what ends the worker, too."""
    message = expected_failure(error, worker, str(folders[0]))
    if message is None:
        text = "".join(traceback.format_exception(error))
        for folder in folders:
            # A disk that refuses it must not hide the cause itself.
            with contextlib.suppress(OSError):
                write_atomic(folder / "error.txt", text)
        message = machine_failure(error, worker)
        if message is None:
            # Whatever state this process is in, no other trial should inherit it.
            raise TrialError(f"{type(error).__name__}: {error}") from None
    if isinstance(message, OutOfGpuMemory):
        with contextlib.suppress(Exception):
            sys.modules["torch"].cuda.empty_cache()
    send(message)
    if isinstance(message, GpuFault):
        raise GpuFaultError(first_line(error)) from None


def _make_trial_folder(folder: Path) -> None:
    """Make a trial's folder, and none above it: where those are missing, this node does not see the
    storage that the driver's does, and nobody else would see what is written here."""
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise NodeError(
            f"{folder.parent} is not there, and is on the driver's node: mount the shared storage"
        ) from None


def node_id() -> str:
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
def _locked(folder: Path, until: float) -> Iterator[None]:
    """Inside, no other worker has the trial in `folder`; one that has it is waited for `until` this
    monotonic time.

    One that has it is left over from a driver that died, since a driver gives a trial to one worker
    at a time: it is ended here, for Ray takes its time over that. Or it was on a node that is lost:
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
