"""Ray: starting it or attaching to it, and running a study's trials on it until they are done."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune

from fdan.errors import DeviceError, FdanError, disk_full
from search import checkpoints, placement, trial
from search.bridge import Bridge
from search.resources import Resources
from search.room import Room
from search.scheduler import OptunaScheduler
from search.searcher import OptunaSearcher, Stopped, leaving
from search.silence import Silence


class DriverError(FdanError):
    """Ray cannot be started or reached, or cannot hold a single trial."""


class RayLost(DriverError):  # noqa: N818
    """The Ray that was started here has lost one of its own processes."""


class Stop:
    """Why the study should end before its trials are done, if it should."""

    def __init__(self, budget: float | None = None) -> None:
        """`budget`: seconds from now."""
        self._deadline = None if budget is None else time.monotonic() + budget
        self.reason = ""
        self.final = False
        """Whether the trials under way end with it: those of a spent budget do, and those of a
        study that has enough."""
        self.code = 0
        """Exit code: that of the signal, 0 for a budget that is spent."""

    def renew(self) -> None:
        """A budget that is spent ends the search, not what comes after it."""
        if self.final and not self.code:
            self.reason, self.final = "", False
        self._deadline = None

    def request(self, reason: str, code: int) -> None:
        self.reason, self.code = self.reason or reason, self.code or code

    def enough(self, reason: str) -> None:
        """The study is finished, as with a spent budget."""
        if not self.reason:
            self.reason, self.final = reason, True

    def due(self) -> bool:
        if not self.reason and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason, self.final = "the time budget is spent", True
        return bool(self.reason)


# Read by Tune on the driver. Its own files are not needed (Optuna's storage is the truth), and its
# own signal handler and printing would get in the way of ours.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter keeps silent when told to
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the searcher knows how many may be under way
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def check_address(address: str | None) -> None:
    """Raises DriverError where nobody listens: Ray itself would try for minutes."""
    if address is None or address in ("auto", "local"):
        return
    if address.startswith("ray://"):
        raise DriverError(
            f"--address {address}: a Ray client cannot hold a study; run the search on a node of"
            " the cluster (ray submit) with --address auto"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise DriverError(f"--address {address}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise DriverError(f"--address {address}: no Ray cluster answers there ({error})") from None


@contextlib.contextmanager
def cluster(address: str | None, folder: Path, cpus: int | None = None) -> Iterator[None]:
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


def _started(
    address: str | None, folder: Path, cpus: int | None, stack: contextlib.ExitStack
) -> Iterator[None]:
    temporary = None
    handler = signal.getsignal(signal.SIGTERM)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    # What Ray and Tune print belongs to nobody's output; it may help to find out what happened.
    log = stack.enter_context((folder / "ray.log").open("a", encoding="utf-8", buffering=1))
    stack.enter_context(contextlib.redirect_stdout(log))
    try:
        # Ray puts the current folder on the workers' sys.path: that of the study has no modules.
        with contextlib.chdir(folder), warnings.catch_warnings():
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
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if temporary is None:
            raise DriverError(f"Ray at {address} cannot be reached: {line}") from None
        _shut_down(own=True)
        shutil.rmtree(temporary, ignore_errors=True)
        raise RayLost(f"Ray on this machine did not start: {line}") from None
    # Ray has put handlers of its own in front of this program's, which end it there and then.
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        _shut_down(own=temporary is not None)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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
            raylets = [one.process.pid for one in node.all_processes.get("raylet", ())]
            started = _below(raylets)  # workers and agents, which would take a minute to notice
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            for number in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
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


def room(
    each: Resources,
    wanted: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    changed: Callable[[int], None] = lambda _: None,
) -> Room:
    """The room for trials on the cluster that is up.

    A Ray of our own stays as it is: raises DriverError where not even one trial fits it,
    DeviceError where it is the GPU that is missing. Into a cluster, nodes may still come.
    """
    if _ours():
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
        if each.gpus > gpus:
            raise DeviceError(
                f"--gpus-per-trial {each.gpus:g}: Ray sees {gpus:g} GPUs; use --gpus-per-trial 0"
            )
        if each.cpus > cpus:
            raise DriverError(f"--cpus-per-trial {each.cpus}: Ray sees {cpus:g} CPUs")
    return Room(each, ray.nodes, say, wanted, grows=not _ours(), changed=changed)


def gpus_at(address: str) -> bool:
    """Whether a node of the cluster at `address` has a GPU. Raises DriverError."""
    check_address(address)
    with tempfile.TemporaryDirectory() as folder, cluster(address, Path(folder)):
        return bool(ray.cluster_resources().get("GPU", 0.0))


def _ours() -> bool:
    """Whether the Ray that is up was started by this process."""
    node = ray._private.worker._global_node
    return node is not None and "gcs_server" in node.all_processes


def run(
    bridge: Bridge,
    train: trial.Trainable,
    *,
    room: Room,
    epoch_timeout: float,
    folder: Path,
    stop: Stop,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Run the bridge's trials, those that wait and new ones, on the cluster that is up.

    Returns when they are done or `stop` is due. Trials that are under way then stay in the bridge.
    room: how many at once; epoch_timeout: seconds of silence after which a trial's worker is
    killed; say: is told what workers say of their nodes. Raises RayLost.
    """
    tune_folder = folder / "tune"
    shutil.rmtree(tune_folder, ignore_errors=True)
    worker = trial.function(train, checkpoints.of_workers(folder), max(1, room.each.cpus))
    ours = _ours()

    def due() -> bool:
        with leaving():
            _check_ray()
        if not stop.due() and not ours:
            room.look()
        return bool(stop.reason)

    try:
        tune.Tuner(
            tune.with_resources(worker, placement.of),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearcher(bridge, room),
                scheduler=OptunaScheduler(bridge, due, Silence(epoch_timeout), room, say),
                num_samples=-1,  # the searcher knows when there are no more
                reuse_actors=True,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(tune_folder.absolute()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
            ),
        ).fit()
    except Stopped as stopped:
        if isinstance(stopped.__cause__, FdanError):
            raise stopped.__cause__ from None
    except KeyboardInterrupt:
        stop.request("stopped by the user", 130)
    finally:
        shutil.rmtree(tune_folder, ignore_errors=True)


def _check_ray() -> None:
    """Ray waits for ever for a raylet of its own that is gone, and ends this process a minute
    after its GCS is."""
    node = ray._private.worker._global_node
    if node is None:  # it did not come up
        return
    for name, processes in node.all_processes.items():
        for started in processes:
            code = started.process.poll()
            if code is not None and name in ("raylet", "gcs_server"):
                raise RayLost(f"Ray's {name} ended (exit code {code})")


@contextlib.contextmanager
def signals(stop: Stop, say: Any) -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM asks the study to stop; a second Ctrl-C insists."""

    def handle(number: int, frame: FrameType | None) -> None:
        name = "stopped by the user" if number == signal.SIGINT else "stopped by a signal"
        stop.request(name, 128 + number)
        # In a thread: the one that is interrupted may hold a lock that printing needs.
        text = (
            "stopping: the same command continues the study, its running trials from their newest"
            " checkpoints (Ctrl-C again: at once)"
        )
        threading.Thread(target=say, args=(text,), daemon=True).start()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _folder_name(tune_trial: Any) -> str:
    """Tune would put the settings in it, and a process id that says nothing."""
    return f"{tune_trial.config['number']:04d}"


def _temporary(study: Path) -> Path:
    """A folder for Ray's files, whose sockets' names have to fit into 107 characters. Takes away
    what a driver of this study left that was killed."""
    base = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) <= 20 else "/tmp")
    prefix = f"fdan-{zlib.crc32(str(study.resolve()).encode()):08x}-"
    for stale in base.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
