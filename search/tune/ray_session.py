"""Ray for a study: one of our own on this machine, or a cluster that is up already."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import ray

from fdan.errors import FdanError, disk_full
from fdan.files import first_line
from fdan.machine.cpus import UNPINNED, cpu_count


class ClusterError(FdanError):
    """Ray cannot be started or reached, or cannot hold a single trial."""


class RayLostError(ClusterError):
    """The Ray that was started here has lost one of its own processes."""


# Tune reads these on the driver. Its own files are not needed (Optuna's storage is the truth), and
# its own signal handler and printing would get in the way of ours.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter is silent with verbose=0
    "RAY_USAGE_STATS_ENABLED": "0",
    # Prestarted workers are of no use: Tune sets an environment variable for its workers, so that
    # it gets others.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_task_events_shutdown_flush_timeout_ms": "100",  # 5 s, for a Ray that is killed by then
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher bounds the trials that are under way
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

_LOG: Final = "ray.log"

_LOST: Final = (
    "the search ended: the Ray cluster at {} that it had joined is gone, or it was killed"
)
_NOTHING_LOST: Final = "nothing is lost: the same command goes on"

_MAX_BASE: Final = 20  # characters of the folder above Ray's
_ROOM_BYTES: Final = 2**20  # what Ray writes at its start, and some more

_OBJECT_STORE_BYTES: Final = 100 * 2**20  # Ray's least: nothing of ours goes through it


def check_address(address: str | None, named: str | None = None) -> None:
    """Raises ClusterError where nobody listens, or a web server: Ray itself would try for minutes.

    Args:
        address: Address of the cluster; None for a local Ray.
        named: The address with what names it: an option or a variable.
    """
    if address is None:
        return
    named = named or f"--address {address}"
    host, _, port = _host_and_port(address, named).rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            connection.settimeout(1)
            with contextlib.suppress(OSError):  # a cluster may be silent, or end the connection
                if connection.recv(5) == b"HTTP/":
                    raise ClusterError(
                        f"{named}: a web server answers there, such as Ray's dashboard; give the"
                        " port of the cluster itself (ray start --port, 6379 if not given)"
                    )
    except (OSError, OverflowError) as error:
        where = (
            f"at {host}:{port}, where `ray start` was last run" if address == "auto" else "there"
        )
        raise ClusterError(f"{named}: no Ray cluster answers {where} ({error})") from None


def _host_and_port(address: str, named: str) -> str:
    """The address that is meant. Of `auto`, the one that `ray start` wrote down on this machine:
    where there is none, Ray joins any Ray that runs here, such as another study's own."""
    if address != "auto":
        return address
    try:
        started = ray._private.utils.read_ray_address()
    except OSError as error:
        raise ClusterError(f"{named}: {error.filename} cannot be read: {error.strerror}") from None
    if not started:
        raise ClusterError(
            f"{named}: no Ray cluster was started on this machine (ray start), or it keeps its"
            " files elsewhere (--temp-dir: set RAY_TMPDIR to that folder), and no other program's"
            " Ray is joined; give HOST:PORT of a cluster, or --address local for a Ray of the"
            " study's own"
        )
    return str(started)


@contextlib.contextmanager
def connected(address: str | None, folder: Path, cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of the block. Ray that is up in this process already is used as it is.

    A local one keeps its files in a temporary folder and is not found by other programs.

    Args:
        address: Address of the cluster; None for a local Ray.
        folder: Folder for Ray's log.
        cpus: CPUs of a local Ray; None for those that this process may use.

    Raises:
        ClusterError: The cluster cannot be reached.
        RayLostError: The local Ray did not start.
    """
    os.environ.update({k: v for k, v in _ENVIRONMENT.items() if k not in os.environ})
    for name in ("ray", "ray.tune", "ray.train", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    # What Ray and Tune print is no part of the search's output; it may help to find a cause.
    with (
        (folder / _LOG).open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.ExitStack() as stack,
    ):
        if address is None:
            temporary = _temporary_folder(folder)
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            with _last_words("the search ended while it joined Ray"):
                _init(None, folder, cpus, temporary)
        else:
            address = _host_and_port(address, "--address auto")
            stack.enter_context(_last_words(_LOST.format(address)))
            _init(address, folder, None, None)
        stack.callback(_shut_down, own=address is None)
        yield


class RaySession:
    """Ray for several rounds of trials: `start` brings it up unless it is up, `stop` takes it down.
    A context manager that leaves none behind."""

    def __init__(self, address: str | None, folder: Path, cpus: int | None = None) -> None:
        """The arguments are those of `connected`."""
        self._arguments = (address, folder, cpus)
        self.log = folder / _LOG  # what Ray and Tune print
        self._stack = contextlib.ExitStack()
        self._started = False

    def start(self) -> None:
        """Raises RayLostError where it has broken down since it was started; `stop` it then."""
        if self._started:
            check_ray_alive()
        else:
            self._stack.enter_context(connected(*self._arguments))
            self._started = True

    def stop(self) -> None:
        self._started = False
        self._stack.close()

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def owns_ray() -> bool:
    """Whether the Ray that is up was started by this process."""
    return bool(_processes("gcs_server"))


def check_ray_alive() -> None:
    """Raises RayLostError where a process of our own Ray has ended: Ray waits for ever for its
    raylet, and ends this process a minute after its GCS."""
    for name in ("raylet", "gcs_server"):
        for process in _processes(name):
            if (code := process.poll()) is not None:
                raise RayLostError(f"Ray's {name} ended (exit code {code})")


@contextlib.contextmanager
def telling_of_lost_cluster(address: str | None, named: str | None) -> Iterator[None]:
    """What Ray raises inside, of whatever kind, becomes a ClusterError where the cluster that was
    joined answers no more. Mostly Ray's core ends the process instead (`_last_words`).

    Args:
        address: Address of the cluster; None for a local Ray.
        named: The address with what names it.
    """
    try:
        yield
    except FdanError:
        raise
    except Exception as error:
        try:
            check_address(address, named)
        except ClusterError as gone:
            raise ClusterError(f"{gone}: the cluster is gone; {_NOTHING_LOST}") from error
        raise


def _processes(name: str) -> list[subprocess.Popen[bytes]]:
    """Processes of the Ray that this process started, by Ray's name for them."""
    node = ray._private.worker._global_node
    return [info.process for info in node.all_processes.get(name, ())] if node is not None else []


def _init(address: str | None, folder: Path, cpus: int | None, temporary: Path | None) -> None:
    options: dict[str, object]
    options = {"address": address, "runtime_env": {"env_vars": dict(UNPINNED)}}
    if temporary is not None:
        options = {
            "address": "local",
            "num_cpus": cpu_count() if cpus is None else cpus,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": str(temporary),
        }
    try:
        # Ray puts the current folder on the workers' sys.path: that of the study has no modules.
        with contextlib.chdir(folder), warnings.catch_warnings(), _sigterm_blocked():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except Exception as error:  # Ray's own are of any kind
        if disk_full(error):
            raise
        line = first_line(error)
        if temporary is None:
            hint = "; if its nodes have RAY_AUTH_MODE=token, set it here as well"
            if os.environ.get("RAY_AUTH_MODE") == "token":
                hint = ""
            raise ClusterError(f"Ray at {address} cannot be reached: {line}{hint}") from None
        _shut_down(own=True)
        raise RayLostError(f"Ray on this machine did not start: {line}") from None


@contextlib.contextmanager
def _last_words(text: str) -> Iterator[None]:
    """Inside, a process that ends leaves a line on stderr.

    Ray's core ends its process without a word to Python: where the raylet of the node that it is
    joining is killed at that very moment, and a minute after the cluster that it joined is gone. A
    child that waits for the other end of a pipe outlives that.
    """
    line = f"error: {text}; {_NOTHING_LOST}"
    waiting = ["sh", "-c", 'read -r left || echo "$0" >&2', line]
    # A session of its own: what is typed at the terminal does not end it.
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as child:
        try:
            yield
        finally:
            with contextlib.suppress(BrokenPipeError):
                child.communicate(b"left\n")


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Inside, SIGTERM waits until after the block, and processes that are started ignore it, as Ray
    has it for Ctrl-C.

    A batch system or `timeout` that ends all processes of a group means this one, which ends its
    Ray. A GCS that ends on its own account leaves this process waiting for it in Ray's core, out of
    Python's reach, and after a minute Ray's core ends it.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        # Ray installs a handler of its own as it starts, which ends the program at once, and as it
        # ends its core leaves none at all, past Python.
        _set_handler(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_handler(number: signal.Signals, handler: Any) -> None:
    """Set a signal's handler in the main thread; Python lets no other thread do so."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, handler)


def _shut_down(own: bool) -> None:
    """End the connection to Ray, and Ray itself where it is our `own`.

    What Tune leaves behind talks to Ray as it is collected. While Ray goes down that ends the whole
    process ("the core worker has already been shutdown"), whichever thread happens to collect it;
    before, it waits a minute for a GCS that was asked to end together with this process (by a batch
    system, say) and answers no more. Afterwards it is silent. A Ray of our own is not asked to end
    but killed, for the same reason: nothing in it is needed.
    """
    # A second Ctrl-C in these two seconds would leave Ray half there.
    handler = signal.getsignal(signal.SIGINT)
    _set_handler(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    try:
        node = ray._private.worker._global_node
        if own and node is not None:
            if all(process.poll() is None for process in _processes("gcs_server")):
                # Ends the thread that listens for errors, which begins with a question to the GCS:
                # where Ray is stopped as soon as it is up, that is still to be answered.
                ray._private.worker.disconnect()
            # Workers and agents, which would take a minute to notice.
            descendants = _descendants([raylet.pid for raylet in _processes("raylet")])
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            for pid in descendants:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with _sigterm_blocked():
            ray.shutdown()
    finally:
        _set_handler(signal.SIGINT, handler)
        gc.enable()
        gc.collect()


def _descendants(pids: Sequence[int]) -> list[int]:
    descendants: list[int] = []
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):  # none but on Linux
            with contextlib.suppress(OSError):  # it has ended
                children = [int(child) for child in file.read_text().split()]
                descendants += [*children, *_descendants(children)]
    return descendants


def _temporary_folder(study: Path) -> Path:
    """A folder for Ray's files, whose sockets' names have to fit into 107 characters. Removes what
    a driver of this study left that was killed."""
    prefix = f"fdan-{zlib.crc32(str(study.resolve()).encode()):08x}-"
    refused = []
    for base in dict.fromkeys((os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp", "/dev/shm")):
        if not 0 < len(base) <= _MAX_BASE:
            continue
        for stale in Path(base).glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
            try:
                (folder / "room").write_bytes(bytes(_ROOM_BYTES))
                (folder / "room").unlink()
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return folder
        except OSError as error:
            refused.append(f"{base}: {error.strerror}")
    raise ClusterError(
        f"there is no folder for Ray's files ({'; '.join(refused)}): set TMPDIR to one that can be"
        f" written and whose path has at most {_MAX_BASE} characters"
    )
