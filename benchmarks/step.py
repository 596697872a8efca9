"""python -m benchmarks.step: a training step beside the bare backbones, which are its limit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.comparing import by_turns, count, heading, machine, parser, write
from fdan import runtime, train
from fdan.arguments import exit_code
from fdan.augment import augment
from fdan.backbones import build_backbone, find_weights
from fdan.model import MODALITIES, objective
from fdan.run_config import RunConfig
from fdan.training_data import TrainingData
from search.timing import Work, random_data

ABOUT = """\
One training step, 32 images of each modality, random ones of the right sizes (time does not depend
on what they show), on the CPU ResNet-18 at 96 x 96, on a GPU ResNet-34 at 224 x 224; by turns in
the same run, with torch's threads fixed:

full       fdan.train's own step on resident data: batch taken and augmented, both backbones, head,
           losses, backward, SGD
bare       the limit: two torchvision backbones of the same weights, forward, the sum of their
           features as loss, backward, SGD with momentum and decay; the images of each step lie
           ready as normalised float32, channels last
frozen     fdan.train's own step on features, as with --tuning frozen

and by themselves, to say where the rest goes:

batch      images taken and augmented
pixels     uint8 to normalised float32
head       head, both losses and the LMMD, forward and backward, on features
SGD, head  the optimizer's step on the head's parameters

Shown are medians; over the limit, frozen against full: medians of the rounds' ratios.

exit codes: 0 the goal is reached, 1 it is not: on the CPU, full at most 3 % over bare; on a GPU at
least 0.85 of its throughput"""

BATCH: Final = 32
OVER_GOAL: Final = 0.03
THROUGHPUT_GOAL: Final = 0.85

Call = Callable[[], object]


def calls(run: RunConfig, size: int, device: torch.device) -> dict[str, Call]:
    """A step of each kind, ready to be called again and again."""
    full, data = _ours(run, size, device)
    frozen, _ = _ours(replace(run, model=replace(run.model, tuning="frozen")), size, device)
    return {"full": full, "bare": _bare(run, data, device), "frozen": frozen} | _parts(
        run, data, device
    )


def _ours(run: RunConfig, size: int, device: torch.device) -> tuple[Call, TrainingData]:
    """An epoch of one step, and the data that it takes its batch from."""
    shapes = {"visual": (size, size, 3), "acoustic": (size, size, 1)}
    work = Work((run.as_dict(),), shapes, (128, BATCH, 2), tuple(range(7)), str(device), 1, 0.0)
    data = random_data(run, work).to(device)
    network = train.begin(run, data).to(device).train()
    optimizer = train._optimizer(network, run.training, None)
    number = 0

    def step() -> None:
        nonlocal number
        with runtime.repeatable(device):
            train._epoch(network, optimizer, run, data, device, number + 1, number)
        number += 1

    return step, data


def _bare(run: RunConfig, data: TrainingData, device: torch.device) -> Call:
    weights = find_weights(run.model.backbone, run.model.weights)
    backbones = {m: build_backbone(weights).to(device).train() for m in MODALITIES}
    parameters = [p for backbone in backbones.values() for p in backbone.parameters()]
    training = run.training
    optimizer = torch.optim.SGD(
        parameters, training.lr, training.momentum, weight_decay=training.decay, foreach=True
    )
    ready: dict[str, Tensor] = {}
    for modality, backbone in backbones.items():
        images = data.domain(modality).arrays[0][:BATCH]
        ready[modality] = _pixels(backbone, images)

    def step() -> None:
        out = [backbones[m].body(ready[m]) for m in MODALITIES]
        loss = out[0].sum() + out[1].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _wait(device)

    return step


def _pixels(backbone: Any, images: Tensor) -> Tensor:
    """What Backbone.forward gives its body, three channels of its own each."""
    found: Tensor = ((images.float() / 255 - backbone.mean) / backbone.std).permute(0, 3, 1, 2)
    return found


def _parts(run: RunConfig, data: TrainingData, device: torch.device) -> dict[str, Call]:
    weights = find_weights(run.model.backbone, run.model.weights)
    backbone = build_backbone(weights).to(device)
    head = train.begin(run, data).head.to(device).train()
    optimizer = torch.optim.SGD(head.parameters(), run.training.lr, 0.9, foreach=True)
    index = torch.arange(BATCH, device=device)
    labels = torch.from_numpy(data.acoustic.labels[:BATCH]).to(device)
    images = {m: data.domain(m).take(index) for m in MODALITIES}
    draws = torch.rand(BATCH, 4, device=device)
    features = torch.rand(2, BATCH, 512, device=device, requires_grad=True)

    def batch() -> None:
        for m in MODALITIES:
            augment(m, data.domain(m).take(index), draws)
        _wait(device)

    def pixels() -> None:
        for m in MODALITIES:
            _pixels(backbone, images[m])
        _wait(device)

    def through_head() -> None:
        out = head(*features)
        loss = objective(out, labels, labels, run.training.alpha, run.kernel)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        _wait(device)

    def sgd() -> None:
        optimizer.step()
        _wait(device)

    return {"batch": batch, "pixels": pixels, "head": through_head, "SGD, head": sgd}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = runtime.choose_device(options.device)
    described = machine("torch", "torchvision")
    torch.set_num_threads(options.threads or described["cores"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    described |= {"threads": torch.get_num_threads(), "device": name}
    print(heading(described), flush=True)
    on_gpu = device.type == "cuda"
    backbone = options.backbone or ("resnet34" if on_gpu else "resnet18")
    size = options.size or (224 if on_gpu else 96)
    run = RunConfig.from_mapping({"backbone": backbone, "weights": "none", "batch": BATCH})

    every = calls(run, size, device)
    turns = by_turns({k: every[k] for k in ("full", "bare")}, options.rounds, warm=2)
    small = {k: call for k, call in every.items() if k not in turns.wall}
    parts = by_turns(small, 10 * options.rounds, warm=5)
    ms, cpu_ms = turns.ms() | parts.ms(), turns.cpu_ms() | parts.cpu_ms()
    over = turns.faster("bare", "full") - 1
    print(f"two {backbone}, {size} x {size}, batch {BATCH} + {BATCH}")
    for kind, value in ms.items():
        print(
            f"  {kind:<10}{value:>10.2f} ms{100 * value / ms['bare']:>9.2f} % of bare;"
            f" CPU {cpu_ms[kind]:>9.2f} ms{100 * cpu_ms[kind] / cpu_ms['bare']:>9.2f} %"
        )
    print(f"  frozen is {ms['full'] / ms['frozen']:.0f} times as fast as full")
    if on_gpu:
        throughput = 1 / (1 + over)
        print(f"  full has {throughput:.3f} of bare's throughput; goal {THROUGHPUT_GOAL}")
        reached = throughput >= THROUGHPUT_GOAL
    else:
        print(f"  full costs {100 * over:.2f} % over bare; goal {100 * OVER_GOAL:g} %")
        reached = over <= OVER_GOAL
    found = {"machine": described, "backbone": backbone, "size": size, "batch": BATCH}
    write(options.json, found | {"over": over, "ms": ms, "cpu_ms": cpu_ms, "turns": asdict(turns)})
    return 0 if reached else 1


def _parser() -> Any:
    made = parser("step", ABOUT, rounds=15)
    made.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    made.add_argument("--threads", type=count, metavar="INT", help="torch's (default: one a core)")
    made.add_argument("--size", type=count, metavar="INT", help="pixels (default: 96, GPU: 224)")
    made.add_argument("--backbone", help="torchvision network (default: resnet18, GPU: resnet34)")
    return made


if __name__ == "__main__":
    sys.exit(exit_code(main))
