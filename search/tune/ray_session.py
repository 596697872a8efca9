"""Ray: one of our own on this machine, or a cluster that is up already."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

from fdan.errors import FdanError, disk_full
from fdan.files import first_line


class ClusterError(FdanError):
    """Ray cannot be started or reached, or cannot hold a single trial."""


class RayLost(ClusterError):  # noqa: N818
    """The Ray that was started here has lost one of its own processes."""


# Read by Tune on the driver. Its own files are not needed (Optuna's storage is the truth), and its
# own signal handler and printing would get in the way of ours.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter keeps silent when told to
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers of no use: Tune gives its own an environment variable, so that it gets others.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_task_events_shutdown_flush_timeout_ms": "100",  # 5 s, for a Ray that is killed by then
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher knows how many may be under way
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_LOG: Final = "ray.log"


def check(address: str | None) -> None:
    """Raises ClusterError where nobody listens: Ray itself would try for minutes."""
    if address is None or address in ("auto", "local"):
        return
    if address.startswith("ray://"):
        raise ClusterError(
            f"--address {address}: a Ray client cannot hold a study; run the search on a node of"
            " the cluster (ray submit) with --address auto"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ClusterError(f"--address {address}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"--address {address}: no Ray cluster answers there ({error})") from None


@contextlib.contextmanager
def up(address: str | None, folder: Path, cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of the block: the cluster at `address`, or one of our own here.

    A local one has `cpus` CPUs (None: those of the machine), keeps its files in a temporary folder
    and is not found by other programs. Ray that is up in this process already is used as it is.
    """
    os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
    for name in ("ray", "ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        yield from _started(address, folder, cpus, stack)


class Standing:
    """Ray over several rounds: it comes up for the first, stays up between them, and comes up anew
    for the next where it was put down. A context manager that leaves none behind."""

    def __init__(self, address: str | None, folder: Path, cpus: int | None = None) -> None:
        """As `up` has them."""
        self._address, self._folder, self._cpus = address, folder, cpus
        self._stack = contextlib.ExitStack()
        self._up = False

    @property
    def log(self) -> Path:
        """What Ray and Tune print."""
        return self._folder / _LOG

    def up(self) -> None:
        """Raises RayLost where it has broken down since it came up; to be put down, then."""
        if self._up:
            check_alive()
        else:
            self._stack.enter_context(up(self._address, self._folder, self._cpus))
            self._up = True

    def down(self) -> None:
        self._up = False
        self._stack.close()

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()


def _started(
    address: str | None, folder: Path, cpus: int | None, stack: contextlib.ExitStack
) -> Iterator[None]:
    temporary = None
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    # What Ray and Tune print belongs to nobody's output; it may help to find out what happened.
    log = stack.enter_context((folder / _LOG).open("a", encoding="utf-8", buffering=1))
    stack.enter_context(contextlib.redirect_stdout(log))
    try:
        # Ray puts the current folder on the workers' sys.path: that of the study has no modules.
        with contextlib.chdir(folder), warnings.catch_warnings(), _last_words(), _deaf():
            warnings.simplefilter("ignore", FutureWarning)
            if address not in (None, "local"):
                ray.init(address=address, **common)
            else:
                temporary = _temporary(folder)
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=100 * 2**20,  # nothing of ours goes through it
                    _temp_dir=str(temporary),
                    **common,
                )
    except Exception as error:  # Ray's own are of any kind
        if disk_full(error):
            raise
        line = first_line(error)
        if temporary is None:
            raise ClusterError(f"Ray at {address} cannot be reached: {line}") from None
        _shut_down(own=True)
        shutil.rmtree(temporary, ignore_errors=True)
        raise RayLost(f"Ray on this machine did not start: {line}") from None
    try:
        yield
    finally:
        _shut_down(own=temporary is not None)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _last_words() -> Iterator[None]:
    """A line on stderr where this process ends inside the block.

    Ray's core ends the process that is joining a node, without a word to Python, where the node's
    raylet is killed in that very moment. Who waits for the other end of a pipe outlives that.
    """
    line = "error: the search ended while it joined Ray; nothing is lost: the same command goes on"
    waiting = ["sh", "-c", 'read -r joined || echo "$0" >&2', line]
    # A session of its own: what is typed at the terminal does not end it.
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as bystander:
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                bystander.communicate(b"joined\n")


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """SIGTERM waits until after the block, and what is started inside does not hear it at all, as
    Ray has it for Ctrl-C.

    Whoever asks all processes of a group to end (a batch system, `timeout`) means this one, which
    ends its Ray. A GCS that ends on its own account leaves this process waiting for it in Ray's
    core, out of Python's reach, and after a minute Ray's core ends it.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        # Ray puts one of its own there as it starts, which ends the program at once, and as it ends
        # its core leaves none at all, past Python.
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shut_down(own: bool) -> None:
    """End the connection to Ray, and Ray itself where it is our `own`.

    What Tune leaves behind talks to Ray as it is collected. While Ray goes down that ends the whole
    process ("the core worker has already been shutdown"), whichever thread happens to collect it;
    before, it waits a minute for a GCS that was asked to end together with this process (by a batch
    system, say) and answers no more. Afterwards it is silent. A Ray of our own is not asked to end
    but killed, for the same reason: nothing in it is needed.
    """
    gc.disable()
    # A second Ctrl-C in these two seconds would leave Ray half there.
    insisting = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        node = ray._private.worker._global_node
        if own and node is not None:
            if _exit_code("gcs_server") is None:
                # Ends the thread that listens for errors, which begins with a question to the GCS:
                # where Ray is put down as soon as it is up, that is still to be answered.
                ray._private.worker.disconnect()
            raylets = [one.process.pid for one in node.all_processes.get("raylet", ())]
            started = _below(raylets)  # workers and agents, which would take a minute to notice
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            for number in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
        with _deaf():
            ray.shutdown()
    finally:
        signal.signal(signal.SIGINT, insisting)
        gc.enable()
        gc.collect()


def _below(numbers: Sequence[int]) -> list[int]:
    """Processes that these have started, and those that they have."""
    found: list[int] = []
    for number in numbers:
        for file in Path(f"/proc/{number}/task").glob("*/children"):  # none but on Linux
            with contextlib.suppress(OSError):  # it has ended
                children = [int(child) for child in file.read_text().split()]
                found += [*children, *_below(children)]
    return found


def cpus(wanted: int) -> int:
    """CPUs that a local Ray should have for `wanted` to run at once, even if it means sharing."""
    return max(wanted, len(os.sched_getaffinity(0)))


_ON_THEIR_WAY_S = 300.0
"""How long nodes may take to come up before they are no longer waited for."""

_FIRST_REPORT_S = 15.0
"""An autoscaler says what it is about when its head is about ten seconds old."""


def gpus_at(address: str, say: Callable[[str], None]) -> bool:
    """Whether a node of the cluster at `address` has a GPU. Without one, nodes that its autoscaler
    is starting are waited for. Raises ClusterError."""
    check(address)
    began, said = time.monotonic(), False
    with tempfile.TemporaryDirectory() as folder, up(address, Path(folder)):
        while not ray.cluster_resources().get("GPU"):
            coming = _coming()
            wait = _FIRST_REPORT_S if coming is None else _ON_THEIR_WAY_S if coming else 0.0
            if time.monotonic() - began >= wait:
                if coming:
                    raise ClusterError(
                        f"{coming} node(s) of the cluster are still starting after"
                        f" {wait / 60:.0f} minutes, and there is no GPU yet: --gpus-per-trial 1"
                        " waits for one, --device cpu does without (ray status shows the nodes)"
                    )
                return False
            if coming and not said:
                said = True
                say(
                    f"the cluster shows no GPU yet, and is starting {coming} node(s): waiting for"
                    " them (--device cpu or --gpus-per-trial 1 does not)"
                )
            time.sleep(0.5)
        return True


def _coming() -> int | None:
    """Nodes that the cluster's autoscaler is starting, as `ray status` shows them; None where it
    has not said yet, or is one that says so elsewhere (Ray's second version)."""
    found = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report: dict[str, Any] | None = json.loads(found).get("autoscaler_report") if found else None
    if report is None:
        return None
    launches: dict[str, int] = report["pending_launches"]
    return len(report["pending_nodes"]) + sum(launches.values())


def ours() -> bool:
    """Whether the Ray that is up was started by this process."""
    node = ray._private.worker._global_node
    return node is not None and "gcs_server" in node.all_processes


def check_alive() -> None:
    """Ray waits for ever for a raylet of its own that is gone, and ends this process a minute
    after its GCS is."""
    for name in ("raylet", "gcs_server"):
        code = _exit_code(name)
        if code is not None:
            raise RayLost(f"Ray's {name} ended (exit code {code})")


def _exit_code(name: str) -> int | None:
    """That of a process of our own Ray; None while it lives, and where there is none."""
    node = ray._private.worker._global_node
    started = node.all_processes.get(name, ()) if node is not None else ()
    codes = (one.process.poll() for one in started)
    return next((code for code in codes if code is not None), None)


def _temporary(study: Path) -> Path:
    """A folder for Ray's files, whose sockets' names have to fit into 107 characters. Takes away
    what a driver of this study left that was killed."""
    base = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) <= 20 else "/tmp")
    prefix = f"fdan-{zlib.crc32(str(study.resolve()).encode()):08x}-"
    for stale in base.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
