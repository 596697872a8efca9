"""One trial inside a worker. Nothing here knows Optuna's study or MLflow: a trial gets settings,
reports epochs, and keeps its newest checkpoint and what it reported in the folder of its number,
from where another worker goes on if this one dies."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from fdan.errors import DataError, DeviceError, FdanError, disk_full
from fdan.lock import Held, Lock, holds
from search import epoch_log
from search.placement import GPUS
from search.published import Published, Refused
from search.report import (
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
)

if TYPE_CHECKING:
    from fdan.checkpoint import Checkpoint
    from fdan.run_config import RunConfig


@dataclass(frozen=True)
class Assignment:
    """What a worker is asked to run."""

    number: int
    params: Mapping[str, Any]
    after: int
    """The last epoch that is reported already."""
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


class Crashed(Exception):  # noqa: N818
    """A trial's exception in one message; its traceback is in error.txt."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:300])


class Broken(Crashed):
    """The worker's GPU has broken down: another worker may go on with the trial."""


def folder_of(study: Path, number: int) -> Path:
    """The folder that the trial `number` of a study owns."""
    return study / "trials" / f"{number:04d}"


_STORAGE_GONE = (errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EACCES, errno.EPERM)
"""What a mount says that has broken down, or belongs to somebody else."""


def function(
    train: Trainable, study: Path, threads: int, home: str = ""
) -> Callable[[dict[str, Any]], None]:
    """`train` as a function for Ray Tune, whose config is {"number", "params", "after"} and what
    search.placement reads. study: the folder in which `trials` is, as this node sees it; home:
    on a cluster, Ray's id of the driver's node."""

    def fdan_trial(config: dict[str, Any]) -> None:
        folder = folder_of(study, config["number"])
        try:
            _made(folder)
            assignment = Assignment(
                config["number"],
                config["params"],
                config["after"],
                folder,
                threads,
                config[GPUS],
                lambda text: tune.report({NOTE: f"{_address()} {text}"}),
            )
            with _alone(folder):
                train(assignment, lambda report: tune.report({REPORT: report, NODE: node()}))
        except Refused as error:
            tune.report({REFUSED: f"{_address()}: {error}", NODE: node()})
        except DeviceError as error:
            # Where it is the cluster's node: the trial may go on elsewhere.
            kind = {REFUSED: f"{_address()}: {error}", NODE: node()}
            tune.report(kind if home else {FAILED: str(error)})
        except FdanError as error:
            tune.report({FAILED: str(error)})
        except Held as error:
            tune.report({LOST: str(error)})
        except Exception as error:
            if disk_full(error):
                tune.report({FULL: getattr(error, "filename", None) or str(folder)})
                return
            elsewhere = home not in ("", node())
            if elsewhere and isinstance(error, OSError) and error.errno in _STORAGE_GONE:
                # Trial after trial would fail here, each at once.
                tune.report({REFUSED: f"{_address()}: {error}", NODE: node()})
                return
            _keep(folder / "error.txt", traceback.format_exc())
            if _out_of_gpu_memory(error):
                with contextlib.suppress(Exception):
                    sys.modules["torch"].cuda.empty_cache()
                tune.report({STARVED: "out of GPU memory"})
            elif _out_of_memory(error):
                tune.report({LOST: "out of memory"})
            elif _of_the_gpu(error):
                told = " ".join(str(error).split("\n", 1)[0].split())
                tune.report({BROKEN: f"{_address()}: {told}", NODE: node()})
                raise Broken(told) from None
            else:
                # Whatever state this process is in, no other trial should inherit it.
                raise Crashed(f"{type(error).__name__}: {error}") from None

    return fdan_trial


def _made(folder: Path) -> None:
    """Make a trial's folder, and none above it: where those are missing, this node does not see the
    storage that the driver's does, and nobody else would see what is written here."""
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise Refused(
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
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other worker has the trial in `folder`.

    One that has is left over from a driver that died, since a driver gives a trial to one worker at
    a time: it is ended here, for Ray takes its time over that. Or it was on a node that is lost:
    NFS 3 keeps the locks of a machine that never comes back for ever, so that the trial gets a new
    lock file.
    """
    path, until = folder / "lock", time.monotonic() + _ORPHAN_S
    while True:
        try:
            lock = Lock(path)
            break
        except Held as held:
            if time.monotonic() > until:
                if held.owner is not None and held.owner.host in _hosts():
                    raise
                path.unlink(missing_ok=True)
            elif held.owner is not None and holds(held.owner, path):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(held.owner.pid, signal.SIGKILL)
        time.sleep(0.1)
    with lock:
        yield


@dataclass(frozen=True)
class Work:
    """What all trials of a study share, as plain values: a worker opens the data by itself."""

    acoustic: tuple[Path, ...]
    """Stores: absolute paths, on the driver's node or on all."""
    visual: tuple[Path, ...]
    split: Mapping[str, Any]
    """A SplitConfig."""
    fixed: Mapping[str, Any]
    """RunConfig's settings that are not searched."""
    device: str
    """cpu or cuda: to a worker Ray shows only the GPUs of its trial."""
    cache: Path
    """Where frozen backbones' features are kept; all nodes see it."""
    data: str
    """The task's fingerprint."""
    published: Published | None = None
    """The stores as other nodes can have them; None: they see the same paths."""
    home: str = ""
    """Ray's id of the driver's node."""


CHECKPOINT = "checkpoint"
"""Folder of a trial's newest checkpoint, in the trial's own."""

_SAVING = 0.05
"""Share of a trial's time that may go into saving checkpoints, as long as little is at stake."""

_AT_STAKE_S = 2.0
"""Training that may be lost beyond the epoch under way: an epoch this long is saved at its end,
whatever that costs."""


def trainer(work: Work) -> Trainable:
    """The Trainable that trains an FDAN."""

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        _train(work, assignment, report)

    return train


def _train(work: Work, assignment: Assignment, report: Callable[[Report], None]) -> None:
    # Here, so that a process that only plans imports no torch.
    import torch

    from fdan.run_config import RunConfig
    from fdan.runtime import bound_memory
    from fdan.train import EpochReport, train

    torch.set_num_threads(assignment.threads)  # holds for the calling thread, so for each trial
    if 0 < assignment.gpus < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        bound_memory(assignment.gpus)
    run = RunConfig.from_mapping({**work.fixed, **assignment.params}, f"trial {assignment.number}")
    folder = assignment.folder / CHECKPOINT
    resume, unheard = _newest(folder, assignment, run)
    for told in unheard:
        report(told)
    saved_at = cost = 0.0

    def after_epoch(epoch: EpochReport, checkpoint: Checkpoint) -> None:
        nonlocal saved_at, cost
        metrics = {name: float(value) for name, value in epoch.metrics.items()}
        told = Report(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist())
        log.append(told)
        began = time.monotonic()
        pause = min(cost / _SAVING, _AT_STAKE_S)
        if epoch.epoch == run.training.epochs or began - saved_at >= pause:
            log.sync()
            checkpoint.save(folder)
            saved_at = time.monotonic()
            cost = saved_at - began
        report(told)

    with contextlib.closing(epoch_log.EpochLog(assignment.folder)) as log:
        train(run, _data(work, run, assignment.say), after_epoch, device=work.device, resume=resume)


def _newest(
    folder: Path, assignment: Assignment, run: RunConfig
) -> tuple[Checkpoint | None, list[Report]]:
    """The checkpoint to go on from, None to begin anew, and what was trained up to there without
    being heard of. Epochs that were reported and lie after the checkpoint are trained again."""
    from fdan.checkpoint import Checkpoint
    from fdan.errors import WeightsError

    try:
        checkpoint = Checkpoint.load(folder)
    except WeightsError:  # none yet, or not whole
        return None, []
    if {**checkpoint.run.as_dict(), "epochs": 0} != {**run.as_dict(), "epochs": 0}:
        return None, []  # whatever it is doing in this folder
    logged = epoch_log.read(assignment.folder)
    unheard = range(assignment.after + 1, checkpoint.epoch + 1)
    if any(epoch not in logged for epoch in unheard):
        return None, []
    return checkpoint, [logged[epoch] for epoch in unheard]


_loaded: dict[str, Any] = {}
"""The data of this process's last trial: the next one, with reuse_actors, mostly needs the same."""


def _data(work: Work, run: Any, say: Callable[[str], None]) -> Any:
    import torch

    from fdan.runtime import choose_device
    from fdan.split import SplitConfig, split
    from fdan.training_data import load

    model = run.model
    key = repr((work, model.backbone, model.weights, model.tuning))
    if key not in _loaded:
        _loaded.clear()
        task = _task(work, say)
        parts = split(task, SplitConfig.from_mapping(work.split))
        device: torch.device = choose_device(work.device)
        _loaded[key] = load(task, parts, run, device, work.cache)
    return _loaded[key]


def _task(work: Work, say: Callable[[str], None]) -> Any:
    """The study's data, on whichever node this is. Raises Refused where they are not the same."""
    from fdan.store import open_store
    from fdan.task import Task

    elsewhere = node() != work.home
    published = work.published if elsewhere else None

    def store(folder: Path) -> Any:
        return open_store(published.here(folder.name, say) if published else folder)

    try:
        task = Task(*(tuple(map(store, part)) for part in (work.acoustic, work.visual)))
        if task.fingerprint != work.data:
            raise DataError(
                f"its data have the fingerprint {task.fingerprint[:12]}, the study's"
                f" {work.data[:12]}"
            )
    except DataError as error:
        if elsewhere:
            raise Refused(str(error)) from None
        raise
    return task


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
