"""python -m benchmarks.sharing: trials side by side on one GPU, or on a CPU's cores."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.comparing import count, heading, machine, parser, write
from fdan.cli.arguments import exit_code
from fdan.device import choose_device
from fdan.run_config import RunConfig
from search.planning.step_timing import Workload, measure

ABOUT = """\
Whole epochs (steps, bank, validation) of trials that train their backbones, each in a process of
its own as in a search, on random images of the right sizes: 256 of speech to train on, 64 to
validate with, 256 of faces, batch 32 + 32. On a GPU two ResNet-34 at 224 x 224, on the CPU two
ResNet-18 at 96 x 96 with a core each.

Trials an hour, K at a time, against one at a time in the same run: medians of the rounds. NVIDIA's
MPS is used where its daemon runs, which is told; this program does not start it.

exit codes: 0 the goal is reached, 1 it is not: on a GPU, the best K 2.5 times as many trials as one
at a time; on a CPU, as many at least"""

GPU_GOAL: Final = 2.5
CPU_GOAL: Final = 1.0

_SIZES: Final = (256, 256, 64)


def workload(device: str) -> Workload:
    """One trial that has all of a GPU; on a CPU, one core."""
    on_gpu = device == "cuda"
    size = 224 if on_gpu else 96
    run = RunConfig.from_mapping(
        {
            "backbone": "resnet34" if on_gpu else "resnet18",
            "weights": "none",
            "tuning": "full",
            "layers": 1,
        }
    )
    return Workload(
        runs=(run.as_dict(),),
        shapes={"acoustic": (size, size, 1), "visual": (size, size, 1)},
        sizes=_SIZES,
        classes=tuple(range(7)),
        device=device,
        threads=1,
        gpus=0.0,  # all on the first one
    )


def mps() -> bool:
    """Whether NVIDIA's multi-process service runs here."""
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
    return Path(pipes, "control").exists()


def main(arguments: list[str] | None = None) -> int:
    made = parser("sharing", ABOUT, rounds=3)
    made.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    made.add_argument(
        "--at-once",
        type=count,
        nargs="+",
        metavar="K",
        help="besides one at a time (default: as many as there are cores; on a GPU: 2 4 8)",
    )
    options = made.parse_args(arguments)
    on_gpu = choose_device(options.device).type == "cuda"
    described: dict[str, Any] = machine("torch")
    if on_gpu:
        import torch

        described |= {"device": torch.cuda.get_device_name(0), "MPS": "on" if mps() else "off"}
    print(heading(described), flush=True)
    kinds = [1, *(options.at_once or ([2, 4, 8] if on_gpu else [described["cores"]]))]
    seconds: dict[int, list[float]] = {k: [] for k in kinds}
    for number in range(options.rounds):
        for k in kinds[:: -1 if number % 2 else 1]:
            (timing,) = measure(workload("cuda" if on_gpu else "cpu"), k).runs
            seconds[k].append(timing.epoch)
    ratios = {
        k: statistics.median(
            k * one / some for one, some in zip(seconds[1], seconds[k], strict=True)
        )
        for k in kinds
    }
    for k in kinds:
        each = 1000 * statistics.median(seconds[k])
        print(
            f"  {k:>2} at a time{each:>10.0f} ms an epoch{ratios[k]:>8.2f} times the trials an hour"
        )
    best = max(kinds[1:], key=lambda k: ratios[k], default=1)
    goal = GPU_GOAL if on_gpu else CPU_GOAL
    reached = ratios[best] >= goal
    print(f"  {best} at a time: goal {goal:g} times: {'reached' if reached else 'missed'}")
    write(options.json, {"machine": described, "seconds": seconds, "ratios": ratios})
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(exit_code(main))
