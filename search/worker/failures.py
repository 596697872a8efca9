"""What an exception in a worker means: for its trial, its node and the worker itself. What becomes
of the trial of a lost worker: search/study/active_trials.py."""

import contextlib
import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdan.errors import DeviceError, FdanError, disk_full, out_of_memory
from fdan.files import first_line, write_atomic
from fdan.lock import LockHeld
from fdan.machine.rights import denied, explain
from search.worker import messages
from search.worker.store_sync import NodeError

_STORAGE_GONE = (errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EACCES, errno.EPERM)
"""Errors of a mount that has broken down, or belongs to somebody else."""

_GPU_MARKS = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")


class TrialError(Exception):
    """A trial's exception as one line; its traceback is in the trial's error.txt."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:300])


class GpuFaultError(TrialError):
    """The worker's GPU has broken down: another worker may go on with the trial."""


@dataclass(frozen=True)
class Worker:
    """Location of a worker."""

    node: str  # Ray's id of its node; empty without Ray
    address: str  # its node's address
    driver_node: str  # Ray's id of the driver's node; empty where Ray is not a cluster


def report_failure(
    error: Exception,
    worker: Worker,
    folders: Sequence[Path],
    send: Callable[[messages.WorkerMessage], None],
) -> None:
    """Tell the driver of an exception; raise what ends the worker, too.

    Args:
        error: Exception of the trials.
        worker: Worker that trained them.
        folders: The trials' folders, for error.txt where the message alone is not enough.
        send: Function that sends a message to the driver.
    """
    message = _expected_failure(error, worker, str(folders[0]))
    if message is None:
        text = "".join(traceback.format_exception(error))
        for folder in folders:
            # A disk that refuses it must not hide the cause itself.
            with contextlib.suppress(OSError):
                write_atomic(folder / "error.txt", text)
        message = _machine_failure(error, worker)
        if message is None:
            # Whatever state this process is in, no other trial should inherit it.
            raise TrialError(f"{type(error).__name__}: {error}") from None
    if isinstance(message, messages.OutOfGpuMemory):
        with contextlib.suppress(Exception):
            sys.modules["torch"].cuda.empty_cache()
    send(message)
    if isinstance(message, messages.GpuFault):
        raise GpuFaultError(first_line(error)) from None


def _expected_failure(
    error: Exception, worker: Worker, folder: str
) -> messages.WorkerMessage | None:
    """The message of an exception whose text is enough; None for others."""
    if isinstance(error, NodeError) or (isinstance(error, DeviceError) and worker.driver_node):
        # On a cluster, a trial without a device may go on elsewhere.
        return messages.NodeRejected(f"{worker.address}: {error}", worker.node)
    if isinstance(error, FdanError):
        return messages.TrialFailed(str(error))
    if isinstance(error, LockHeld):
        return messages.WorkerLost(str(error))
    if disk_full(error):
        return messages.DiskFull(getattr(error, "filename", None) or folder)
    elsewhere = worker.driver_node not in ("", worker.node)
    if elsewhere and isinstance(error, OSError) and error.errno in _STORAGE_GONE:
        # Trial after trial would fail here, each at once.
        return messages.NodeRejected(f"{worker.address}: {error}", worker.node)
    if denied(error) and isinstance(error, OSError) and error.filename is not None:
        return messages.NoRights(explain(error, Path(folder)))
    return None


def _machine_failure(error: Exception, worker: Worker) -> messages.WorkerMessage | None:
    """The message of an exception for which memory or the GPU is to blame; None for others."""
    torch = sys.modules.get("torch")
    gpu_is_full = torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    # CUDA's own libraries have no class for it.
    if gpu_is_full or _says(error, "CUDA error: out of memory", "_STATUS_ALLOC_FAILED"):
        return messages.OutOfGpuMemory()
    if out_of_memory(error):
        return messages.WorkerLost("out of memory")
    if _says(error, *_GPU_MARKS):
        return messages.GpuFault(f"{worker.address}: {first_line(error)}", worker.node)
    return None


def _says(error: Exception, *marks: str) -> bool:
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)
