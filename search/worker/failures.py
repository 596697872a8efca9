"""What an exception in a worker means: for its trial, its node and the worker itself."""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass

from fdan.errors import DeviceError, FdanError, disk_full
from fdan.files import first_line
from fdan.lock import LockHeld
from search.worker.messages import (
    DiskFull,
    GpuFault,
    NodeRejected,
    OutOfGpuMemory,
    TrialFailed,
    WorkerLost,
    WorkerMessage,
)
from search.worker.store_sync import NodeError

_STORAGE_GONE = (errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.EACCES, errno.EPERM)
"""Errors of a mount that has broken down, or belongs to somebody else."""


class TrialError(Exception):
    """A trial's exception as one line; its traceback is in the trial's error.txt."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:300])


class GpuFaultError(TrialError):
    """The worker's GPU has broken down: another worker may go on with the trial."""


@dataclass(frozen=True)
class Worker:
    """Location of a worker."""

    node: str
    """Ray's id of its node; empty without Ray."""
    address: str
    """Its node's address."""
    driver_node: str
    """Ray's id of the driver's node; empty where Ray is not a cluster."""


def expected_failure(error: Exception, worker: Worker, folder: str) -> WorkerMessage | None:
    """An exception whose message is enough; None for others.

    Args:
        error: Exception of the trial.
        worker: Worker that trained it.
        folder: Folder of the trial, for a full disk that does not name a file.
    """
    if isinstance(error, NodeError) or (isinstance(error, DeviceError) and worker.driver_node):
        # On a cluster, a trial without a device may go on elsewhere.
        return NodeRejected(f"{worker.address}: {error}", worker.node)
    if isinstance(error, FdanError):
        return TrialFailed(str(error))
    if isinstance(error, LockHeld):
        return WorkerLost(str(error))
    if disk_full(error):
        return DiskFull(getattr(error, "filename", None) or folder)
    elsewhere = worker.driver_node not in ("", worker.node)
    if elsewhere and isinstance(error, OSError) and error.errno in _STORAGE_GONE:
        # Trial after trial would fail here, each at once.
        return NodeRejected(f"{worker.address}: {error}", worker.node)
    return None


def machine_failure(error: Exception, worker: Worker) -> WorkerMessage | None:
    """An exception for which memory or the GPU is to blame; None for others.

    Args:
        error: Exception of the trial.
        worker: Worker that trained it.
    """
    if _out_of_gpu_memory(error):
        return OutOfGpuMemory()
    if _out_of_memory(error):
        return WorkerLost("out of memory")
    marks = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "cuDNN error")
    if isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks):
        return GpuFault(f"{worker.address}: {first_line(error)}", worker.node)
    return None


def _out_of_gpu_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    # CUDA's own libraries have no class for it.
    marks = ("CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _out_of_memory(error: Exception) -> bool:
    """The machine is out of memory: torch says so in words only."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
