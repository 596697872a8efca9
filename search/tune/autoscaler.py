"""A cluster that is still growing: does it have a GPU, or is its autoscaler starting one?"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental.internal_kv import _internal_kv_get

from search.tune.ray_session import ClusterError, check_address, connected

_STARTUP_TIMEOUT_S = 300.0  # how long nodes that take time to come up are waited for
_FIRST_REPORT_S = 15.0  # an autoscaler first reports when its head is about ten seconds old


def cluster_has_gpu(address: str, notify: Callable[[str], None]) -> bool:
    """Whether a node of the cluster has a GPU. Without one, the nodes that its autoscaler is
    starting are waited for.

    Args:
        address: Address of the cluster (--address).
        notify: Function that shows the user what the study waits for.

    Raises:
        ClusterError: The cluster cannot be reached, or its nodes do not come up.
    """
    check_address(address)
    began, notified = time.monotonic(), False
    with tempfile.TemporaryDirectory() as folder, connected(address, Path(folder)):
        while not ray.cluster_resources().get("GPU"):
            starting = _nodes_starting()
            timeout = _FIRST_REPORT_S if starting is None else _STARTUP_TIMEOUT_S * bool(starting)
            if time.monotonic() - began >= timeout:
                if starting:
                    raise ClusterError(
                        f"{starting} node(s) of the cluster are still starting after"
                        f" {timeout / 60:.0f} minutes, and there is no GPU yet: --gpus-per-trial 1"
                        " waits for one, --device cpu does without (ray status shows the nodes)"
                    )
                return False
            if starting and not notified:
                notified = True
                notify(
                    f"the cluster shows no GPU yet, and is starting {starting} node(s): waiting for"
                    " them (--device cpu or --gpus-per-trial 1 does not)"
                )
            time.sleep(0.5)
        return True


def _nodes_starting() -> int | None:
    """How many nodes the cluster's autoscaler is starting, as `ray status` shows them; None where
    it has not reported yet, or is Ray's second version, which reports elsewhere."""
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = json.loads(status).get("autoscaler_report") if status else None
    if report is None:
        return None
    return len(report["pending_nodes"]) + int(sum(report["pending_launches"].values()))
