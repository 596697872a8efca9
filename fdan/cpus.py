"""Number of CPUs. Apart from device.py, since who decodes files needs no torch."""

import os


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
