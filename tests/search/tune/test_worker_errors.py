"""Ray's texts about a worker that ended, and what they mean."""

from __future__ import annotations

import pytest

from search.tune.worker_errors import parse_error_file
from search.worker.messages import TrialFailed, WorkerLost

TRACEBACK = "Failure # 1 (occurred at ...)\nray::ImplicitFunc.train()\n  File ...\n"
UNREACHABLE = "its worker cannot be reached any more: its node is gone, or the network"
ENDED = "the worker's process ended unexpectedly"
MEMORY = "the machine ran out of memory and Ray ended the worker"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", WorkerLost("the worker died")),
        ("Failure # 1\n\n", WorkerLost("the worker died")),
        (
            f"{TRACEBACK}search.worker.failures.TrialError: RuntimeError: a fault",
            TrialFailed("RuntimeError: a fault"),
        ),
        (f"{TRACEBACK}ValueError: no", TrialFailed("ValueError: no")),
        (
            f"{TRACEBACK}search.worker.failures.GpuFaultError: CUDA error: no",
            WorkerLost("CUDA error: no"),
        ),
        ("Failure # 1\nTask was killed: the node is low on memory.", WorkerLost(MEMORY)),
        ("The actor abc is unavailable: try again", WorkerLost(UNREACHABLE, blame_trial=False)),
        (
            "The actor died unexpectedly.\nThe actor's node has died.",
            WorkerLost("its node is gone", blame_trial=False),
        ),
        ("The actor died: node was terminated", WorkerLost("its node is gone", blame_trial=False)),
        ("The actor died unexpectedly before finishing this task.", WorkerLost(ENDED)),
        ("Something else", WorkerLost("the worker died: Something else")),
    ],
)
def test_ray_text(text: str, message: TrialFailed | WorkerLost) -> None:
    assert parse_error_file(text) == message
