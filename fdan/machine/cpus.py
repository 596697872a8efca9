"""Number of CPUs. Apart from device.py, since who decodes files needs no torch."""

import contextlib
import math
import os
from pathlib import Path, PurePosixPath
from typing import Final

UNPINNED: Final = {"OMP_PROC_BIND": "false", "KMP_AFFINITY": "disabled"}
"""Variables for processes that run side by side. A site's profile that pins threads (OMP_PLACES,
GOMP_CPU_AFFINITY and these two) would pin all of them to the same first core."""


def use_all_cpus() -> None:
    """Called by a command before torch is imported, which reads these variables then. Its children
    inherit them, and the CPUs that it is bound to itself."""
    os.environ.update(UNPINNED)
    if math.isfinite(cpu_quota()):  # torch knows of no quota
        os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))


def cpu_count() -> int:
    """CPUs that this process may use: the least of the machine's, those that it is bound to
    (taskset, Slurm) and its quota (containers), of which a part of a CPU counts as one."""
    bound = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        bound = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return min(bound, max(1, math.ceil(quota))) if math.isfinite(quota) else bound


def cpu_quota(root: Path = Path("/")) -> float:
    """The least CPU quota of this process's control groups and of those above them; infinite where
    none has one.

    Args:
        root: The folder that `proc` and `sys` are in.
    """
    quotas = [math.inf]
    with contextlib.suppress(OSError, ValueError):  # not Linux
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            # A container sees its own group at the top, whatever its path outside is.
            for place in (controllers, "cpu") if controllers else ("", "unified"):
                group = PurePosixPath(path.lstrip("/"))
                for folder in (group, *group.parents):
                    quotas.append(_quota(root / "sys/fs/cgroup" / place / folder))
    return min(quotas)


def _quota(group: Path) -> float:
    """Quota of one control group, of version 2 or 1."""
    with contextlib.suppress(OSError, ValueError):
        limit, period = (group / "cpu.max").read_text().split()
        return int(limit) / int(period)  # "max" is no number
    with contextlib.suppress(OSError, ValueError):
        limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(limit) > 0:
            return int(limit) / int(period)
    return math.inf
