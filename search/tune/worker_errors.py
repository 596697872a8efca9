"""What Ray says about a lost worker, as the message that the worker could not send itself. What
becomes of the trial: search/study/active_trials.py."""

from search.worker.failures import GpuFaultError, TrialError
from search.worker.messages import TrialFailed, WorkerLost

_UNREACHABLE = "its worker cannot be reached any more: its node is gone, or the network"
_LONGEST = 300


def parse_error_file(text: str) -> TrialFailed | WorkerLost:
    """TrialFailed with the exception that a trial raised, or WorkerLost with the way in which its
    worker died. A node that is gone is no trial's fault.

    Args:
        text: Error file that Ray Tune writes for a trial; empty where it wrote none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Failure #")]
    if not lines:
        return WorkerLost("the worker died")
    if any(line.startswith("Traceback ") or "ray::" in line for line in lines[:2]):
        _, gpu_fault, reason = lines[-1].rpartition(f"{GpuFaultError.__name__}: ")
        if gpu_fault:
            return WorkerLost(reason)
        return TrialFailed(lines[-1].rpartition(f"{TrialError.__name__}: ")[2][:_LONGEST])
    if "low on memory" in text:
        return WorkerLost("the machine ran out of memory and Ray ended the worker")
    if "is unavailable" in lines[0]:
        return WorkerLost(_UNREACHABLE, blame_trial=False)
    if "node has died" in text or "node was terminated" in text:
        return WorkerLost("its node is gone", blame_trial=False)
    if lines[0].startswith("The actor died unexpectedly"):
        return WorkerLost("the worker's process ended unexpectedly")
    return WorkerLost(f"the worker died: {lines[0]}"[:_LONGEST])
