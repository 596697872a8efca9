"""Trials inside a worker, as a function for Ray Tune. It knows neither Optuna's study nor MLflow: a
trial gets settings, reports epochs, and keeps its newest checkpoint and its log of epochs in the
folder of its number, from where another worker goes on if this one dies.

Several trials may train as one (`--group`). Their epochs go to the driver together, as pairs of a
trial's number and its message. What concerns the worker is one message, whatever the number of its
trials; search.tune.grouping passes it on to each.
"""

import contextlib
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from fdan.lock import Lock, LockHeld
from fdan.machine.rights import follow_group
from search.worker import messages
from search.worker.failures import Worker, report_failure
from search.worker.store_sync import NodeError
from search.worker.trial_folder import trial_folder

_ORPHAN_S = 150.0
"""How long a trial waits for a worker that still has it. NFS 4 releases the locks of a node that
died after 90 s; a node that is merely cut off from its cluster ends its workers after 60 s."""

_THREAD_TIMEOUT_S = 24 * 3600
"""How long a worker that is to be reused waits for its last trial to end, which may be at the start
of an epoch when it is stopped. Where Tune waits in vain, by default for 2 s, it loses the next
trial without a word."""


@dataclass(frozen=True, kw_only=True)
class TrialContext(messages.TrialAssignment):
    """An assignment, and what the worker has for it."""

    folder: Path  # <study>/trials/0007, made already; no other worker writes there
    threads: int = 1  # CPU threads that belong to this trial
    notify: Callable[[str], None] = lambda _: None  # shows the user a line about this node


Train = Callable[[TrialContext, Callable[[messages.EpochResult], None]], None]
"""Trains a trial up to its stop epoch and reports each epoch. Raises FdanError for what the
settings or the data did (the worker goes on to the next trial); any other exception ends the worker
too."""

ReportGroup = Callable[[Mapping[int, messages.EpochResult], Mapping[int, str]], None]
"""Takes an epoch of some trials, and why others failed, by the trials' numbers."""

TrainGroup = Callable[[Sequence[TrialContext], ReportGroup], None]
"""Trains several trials as one, each to its stop epoch. What it raises decides about none of them:
they go on one by one."""


@dataclass(frozen=True)
class WorkerSetup:
    """What is the same for all trials of a run of Ray Tune."""

    study: Path  # the folder in which `trials` is, as this node sees it
    threads: int  # CPU threads of a trial
    driver_node: str = ""  # on a cluster, Ray's id of the driver's node


class _AsyncReporter:
    """Sends one worker's messages to the driver, in order, while the next epoch is trained.

    Ray Tune blocks a trial in each report until the driver has dealt with it: some milliseconds in
    which Optuna, the spool and the terminal are updated, a tenth of a short epoch. A trial that the
    driver stops ends by the SystemExit that Tune raises, in whichever call comes next.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def report(self, message: Any, *, wait: bool = True) -> None:
        """Report a WorkerMessage, or pairs of a trial's number and its message. Returns when the
        driver has dealt with it; with `wait` off, with the one before it."""
        self.wait_for_driver()
        # A daemon, so that it keeps no process alive whose driver is gone.
        self._thread = threading.Thread(target=self._send, args=(message,), daemon=True)
        self._thread.start()
        if wait:
            self.wait_for_driver()

    def wait_for_driver(self) -> None:
        """Returns when the driver has dealt with all messages."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _send(self, message: Any) -> None:
        try:
            tune.report({messages.MESSAGE: message})
        except BaseException as error:  # raised in the trial's own thread
            self._error = error


def make_trainable(
    train: Train, setup: WorkerSetup, train_group: TrainGroup | None = None
) -> Callable[[dict[str, Any]], None]:
    """A function for Ray Tune, whose config has ASSIGNMENTS.

    Args:
        train: Function that trains a single trial.
        setup: Setup that all trials share.
        train_group: Function that trains several; None where there is only one at a time.
    """

    def run(reporter: _AsyncReporter, trials: Sequence[TrialContext]) -> None:
        members = {trial.number: trial for trial in trials}

        def report(epochs: Mapping[int, messages.EpochResult], failed: Mapping[int, str]) -> None:
            node = node_id()
            done = [(number, messages.EpochDone(result, node)) for number, result in epochs.items()]
            ended = [(number, messages.TrialFailed(reason)) for number, reason in failed.items()]
            decides = any(_awaits_decision(members[n], result) for n, result in epochs.items())
            reporter.report((*done, *ended), wait=bool(ended) or decides)

        if len(trials) == 1:
            train(trials[0], lambda result: report({trials[0].number: result}, {}))
        else:
            assert train_group is not None
            train_group(trials, report)

    def fdan_trial(config: dict[str, Sequence[messages.TrialAssignment]]) -> None:
        _run_assignments(config[messages.ASSIGNMENTS], setup, run)

    return fdan_trial


def _awaits_decision(trial: messages.TrialAssignment, result: messages.EpochResult) -> bool:
    """Whether the driver may end the trial after this epoch: nothing is trained meanwhile."""
    decision_epochs = (*trial.decision_epochs, trial.stop_epoch)
    return result.epoch in decision_epochs or not math.isfinite(result.value)


def _run_assignments(
    assignments: Sequence[messages.TrialAssignment],
    setup: WorkerSetup,
    run: Callable[[_AsyncReporter, Sequence[TrialContext]], None],
) -> None:
    """Have a worker's trials run while no other worker has them. An exception is reported to the
    driver in the words of search.worker.failures; one that ends the worker is raised, too."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_THREAD_TIMEOUT_S)
    follow_group(setup.study)  # a cluster's Ray has a umask of its own
    folders = [trial_folder(setup.study, assignment.number) for assignment in assignments]
    reporter = _AsyncReporter()

    def notify(text: str) -> None:
        reporter.report(messages.Note(f"{_address()} {text}"))

    try:
        for folder in folders:
            # None above it: where those are missing, this node does not see the storage that the
            # driver's does, and nobody else would see what is written here.
            try:
                folder.mkdir(exist_ok=True)
            except FileNotFoundError:
                raise NodeError(
                    f"{folder.parent} is not there, and is on the driver's node: mount the shared"
                    " storage"
                ) from None
        trials = [
            TrialContext(**vars(assignment), folder=folder, threads=setup.threads, notify=notify)
            for assignment, folder in zip(assignments, folders, strict=True)
        ]
        with contextlib.ExitStack() as locks:
            until = time.monotonic() + _ORPHAN_S
            for folder in folders:
                locks.enter_context(_locked(folder, until))
            run(reporter, trials)
    except Exception as error:
        worker = Worker(node_id(), _address(), setup.driver_node)
        report_failure(error, worker, folders, reporter.report)
    finally:
        # What comes next is Tune's: the function's return, or what it raised.
        reporter.wait_for_driver()


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
            elif held.owner is not None and held.owner.holds(path):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(held.owner.pid, signal.SIGKILL)
        time.sleep(0.1)
    with lock:
        yield
