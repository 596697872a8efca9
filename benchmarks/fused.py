"""python -m benchmarks.fused: frozen trials trained as one group beside one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch

from benchmarks.comparing import by_turns, count, heading, machine, parser, write
from fdan.cli.arguments import exit_code
from fdan.device import choose_device
from fdan.model.backbones import find_weights
from fdan.model.network import CLASSES
from fdan.run_config import FEATURES, RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.group import MemberEpoch, train_group
from fdan.training.train import Diverged, EpochReport, train
from fdan.training.training_data import Domain, TrainingData

ABOUT = """\
Trials with frozen backbones from their first weights to their last epoch, on random features of
ResNet-18's size (256 of speech to train on, 128 to validate with, 256 of faces), batch 32 + 32,
width 256; they differ in alpha, decay, lr, kernels, ratio, scale and seed as trials of a search do.
By turns in the same run, with torch's threads fixed:

alone      fdan.training.train, one trial after another; it makes a checkpoint after each epoch
group      fdan.training.group.train_group, all trials as one; checkpoints after each epoch, too
rung       the same, checkpoints after the last epoch only, as where a search saves them at rungs

Shown are ms a trial and epoch, start and validation included: medians of the rounds. Faster: the
median of the rounds' ratios, on a GPU of wall time and on a CPU of CPU time, where others may want
the cores, too. Apart: the largest difference of a trial's metrics in an epoch.

exit codes: 0 the goal is reached, 1 it is not: on the CPU 'group' not slower than 'alone', on a GPU
'rung' 20 times as fast; metrics apart by at most 1e-5 on the CPU, 1e-3 on a GPU"""

CPU_GOAL: Final = 1.0
GPU_GOAL: Final = 20.0
EQUAL: Final = {"cpu": 1e-5, "cuda": 1e-3}

Metrics = dict[tuple[int, int], dict[str, float]]
"""By trial and epoch."""


def trials(number: int, layers: int, epochs: int) -> list[RunConfig]:
    """Settings drawn as search/spaces/default.toml has them."""
    random = np.random.default_rng(0)

    def log(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    return [
        RunConfig.from_mapping(
            {
                "backbone": "resnet18",
                "weights": "none",
                "tuning": "frozen",
                "layers": layers,
                "epochs": epochs,
                "seed": seed,
                "alpha": log(1e-5, 1.0),
                "decay": log(1e-6, 1e-2),
                "lr": log(3e-4, 3e-2),
                "kernels": int(random.integers(1, 8)),
                "ratio": random.uniform(1.25, 4.0),
                "scale": log(0.1, 10.0),
            }
        )
        for seed in range(number)
    ]


def features() -> TrainingData:
    random, train, validation = np.random.default_rng(0), 256, 128
    labels = np.arange(train + validation) % CLASSES
    domains = {
        modality: Domain.from_arrays(
            [random.random((len(labels), FEATURES["resnet18"]), dtype=np.float32)], labels
        )
        for modality in ("visual", "acoustic")
    }
    return TrainingData(
        **domains,
        visual_train=np.arange(train),
        acoustic_train=np.arange(train),
        acoustic_validation=np.arange(train, train + validation),
        weights=find_weights("resnet18", "none"),
        fingerprint="random",
    )


def calls(
    runs: list[RunConfig], data: TrainingData, device: torch.device
) -> dict[str, Callable[[], Metrics]]:
    last = runs[0].training.epochs

    def alone() -> Metrics:
        found: Metrics = {}
        for place, run in enumerate(runs):

            def report(
                epoch: EpochReport, checkpoint: Callable[[], Checkpoint], place: int = place
            ) -> None:
                checkpoint()
                found[place, epoch.epoch] = epoch.metrics

            train(run, data, report, device=device)
        return found

    def grouped(every_epoch: bool) -> Metrics:
        found: Metrics = {}

        def report(members: Sequence[MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
            assert not diverged, diverged
            for place, epoch, make in members:
                found[place, epoch.epoch] = epoch.metrics
                if every_epoch or epoch.epoch == last:
                    make()

        train_group(runs, data, report, device=device)
        return found

    return {"alone": alone, "group": lambda: grouped(True), "rung": lambda: grouped(False)}


def apart(one: Metrics, other: Metrics) -> float:
    assert one.keys() == other.keys()
    return max(
        abs(metrics[name] - other[key][name])
        for key, metrics in one.items()
        for name in metrics
        if name != "time/epoch_s"
    )


def main(arguments: list[str] | None = None) -> int:
    made = parser("fused", ABOUT, rounds=5)
    made.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    made.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="INT",
        help="torch's (default: 1, as each of a search's trials side by side has)",
    )
    made.add_argument("--trials", type=count, metavar="INT", help="in a group (16; on a GPU: 64)")
    made.add_argument("--epochs", type=count, metavar="INT", help="of a trial (3; on a GPU: 20)")
    made.add_argument(
        "--layers", type=int, choices=range(4), default=1, help="of cross-attention (default: 1)"
    )
    options = made.parse_args(arguments)
    device = choose_device(options.device)
    on_gpu = device.type == "cuda"
    described = machine("torch", "numpy")
    torch.set_num_threads(options.threads)
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    described |= {"threads": torch.get_num_threads(), "device": name}
    print(heading(described), flush=True)
    together = options.trials or (64 if on_gpu else 16)
    epochs = options.epochs or (20 if on_gpu else 3)

    every = calls(trials(together, options.layers, epochs), features().to(device), device)
    far = apart(every["alone"](), every["group"]())
    turns = by_turns(every, options.rounds, warm=1)
    each = {kind: ms / (together * epochs) for kind, ms in turns.ms().items()}
    cpu = {kind: ms / (together * epochs) for kind, ms in turns.cpu_ms().items()}
    judged_by = turns if on_gpu else replace(turns, wall=turns.cpu)
    faster = {kind: judged_by.faster(kind, "alone") for kind in ("group", "rung")}
    print(f"{together} frozen trials of {epochs} epochs, attention layers: {options.layers}")
    for kind, ms in each.items():
        ratio = f"{faster[kind]:>9.2f} times as fast as alone" if kind in faster else ""
        print(f"  {kind:<8}{ms:>9.2f} ms a trial-epoch, CPU {cpu[kind]:>9.2f} ms{ratio}")
    judged, goal = ("rung", GPU_GOAL) if on_gpu else ("group", CPU_GOAL)
    reached = faster[judged] >= goal and far <= EQUAL[device.type]
    print(f"  metrics apart by {far:.0e} at most; goal {EQUAL[device.type]:g}")
    print(f"  {judged}: goal {goal:g} times: {'reached' if reached else 'missed'}")
    found: dict[str, Any] = {"machine": described, "trials": together, "epochs": epochs}
    found |= {"layers": options.layers, "ms": each, "cpu_ms": cpu, "faster": faster}
    write(options.json, found | {"apart": far, "turns": asdict(turns)})
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(exit_code(main))
