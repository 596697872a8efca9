"""python -m benchmarks.step: a training step beside the bare backbones, which are its limit."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.comparing import by_turns, count, heading, machine, parser, write
from fdan.cli.arguments import exit_code
from fdan.device import choose_device, half_precision, repeatable
from fdan.emotions import MODALITIES
from fdan.machine.cuda_graph import make_graphed, side_stream
from fdan.model.backbones import build_backbone, find_weights
from fdan.model.network import Head, fdan_loss
from fdan.run_config import RunConfig, TrainConfig
from fdan.training import train
from fdan.training.augment import augment
from fdan.training.training_data import TrainingData
from search.planning.step_timing import Workload

ABOUT = """\
One training step, 32 images of each modality, random ones of the right sizes (time does not depend
on what they show), on the CPU ResNet-18 at 96 x 96, on a GPU ResNet-34 at 224 x 224; by turns in
the same run, with torch's threads fixed:

full       our training loop's epochs on resident data: batch taken and augmented, both backbones,
           head, losses, backward, SGD
bare       the limit: two torchvision backbones of the same weights, forward, the sum of their
           features as loss, backward, SGD with momentum and decay; the images of each step lie
           ready as normalised float32, channels last
eager      on a GPU: as 'full', but launched piece by piece
last       as 'full', of the last stage alone, on the maps that enter it (--tuning last)
frozen     fdan.training.train's own epochs on features, as with --tuning frozen

and by themselves, to say where the rest goes:

batch      images taken and augmented
pixels     uint8 to normalised float32
head       head, both losses and the LMMD, forward and backward, on features
SGD, head  the optimizer's step on the head's parameters

On a GPU all but 'eager' is recorded as a CUDA graph and the backbones compute in bfloat16. An epoch
has 32 steps there and one on the CPU. Synchronisations in a step: as torch counts them, what twice
as many steps in an epoch add.

Shown are medians of ms a step; over the limit, last against full: medians of the rounds' ratios.

exit codes: 0 the goal is reached, 1 it is not: on the CPU, full at most 3 % over bare; on a GPU at
least 0.85 of its throughput, and no synchronisation in a step"""

BATCH: Final = 32
OVER_GOAL: Final = 0.03
THROUGHPUT_GOAL: Final = 0.85
STEPS: Final = {"cpu": 1, "cuda": 32}
"""In an epoch, which is what is timed."""

Call = Callable[[], object]


def calls(run: RunConfig, size: int, device: torch.device) -> dict[str, Call]:
    """An epoch of each kind, ready to be called again and again."""
    last, frozen = (replace(run, model=replace(run.model, tuning=t)) for t in ("last", "frozen"))
    data, steps = random_images(run, size, device), STEPS[device.type]
    kinds = {"full": ours(run, data, steps), "bare": _bare(run, data)}
    if device.type == "cuda":
        kinds["eager"] = ours(run, data, steps, eager=True)
    kinds["last"] = ours(last, random_images(last, size, device), steps)
    kinds["frozen"] = ours(frozen, random_images(frozen, size, device), steps)
    return kinds | _parts(run, data)


def random_images(run: RunConfig, size: int, device: torch.device) -> TrainingData:
    shapes = {"visual": (size, size, 3), "acoustic": (size, size, 1)}
    workload = Workload(
        (run.as_dict(),), shapes, (128, BATCH, 2), tuple(range(7)), str(device), 1, 0.0
    )
    return workload.random_data(run).to(device)


def ours(run: RunConfig, data: TrainingData, steps: int, eager: bool = False) -> Call:
    """An epoch of so many steps."""
    device = _device(data)
    data = replace(
        data, acoustic_train=np.arange(steps * run.training.batch) % len(data.acoustic.labels)
    )
    trainer = train.Trainer(train.RunProgress(run, data, None), device)
    trainer.network.train()
    if eager:
        trainer.step = train._make_step(trainer.network, trainer.optimizer, run, data)

    def epoch() -> None:
        with repeatable(device):
            trainer._pass()
        now = trainer.progress.now
        trainer.progress.now = replace(now, epoch=now.epoch + 1, step=now.step + steps)

    return epoch


def _repeated(one_step: Callable[[], Tensor], device: torch.device) -> Call:
    """As often as an epoch has steps; waits only then, as an epoch does."""
    one_step = make_graphed(one_step, device)

    def epoch() -> None:
        for _ in range(STEPS[device.type]):
            one_step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return epoch


def _bare(run: RunConfig, data: TrainingData) -> Call:
    device, training = _device(data), run.training
    weights = find_weights(run.model.backbone, run.model.weights)
    backbones = {m: build_backbone(weights).to(device).train() for m in MODALITIES}
    parameters = [p for backbone in backbones.values() for p in backbone.parameters()]
    optimizer = _sgd(parameters, training, device)
    ready: dict[str, Tensor] = {}
    for modality, backbone in backbones.items():
        images = data.domain(modality).arrays[0][:BATCH]
        ready[modality] = _pixels(backbone, images)

    def one_step() -> Tensor:
        with half_precision(device):
            out = [backbones[m].body(ready[m]) for m in MODALITIES]
        loss = out[0].float().sum() + out[1].float().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _repeated(one_step, device)


def _sgd(
    parameters: list[nn.Parameter], training: TrainConfig, device: torch.device
) -> torch.optim.SGD:
    """As fdan.training.train makes it."""
    fused = device.type == "cuda"
    return torch.optim.SGD(
        parameters,
        lr=torch.tensor(training.lr).to(device) if fused else training.lr,
        momentum=training.momentum,
        weight_decay=training.decay,
        foreach=not fused,
        fused=fused,
    )


def _pixels(backbone: Any, images: Tensor) -> Tensor:
    """What Backbone.forward gives its body, three channels of its own each."""
    found: Tensor = ((images.float() / 255 - backbone.mean) / backbone.std).permute(0, 3, 1, 2)
    return found


def _parts(run: RunConfig, data: TrainingData) -> dict[str, Call]:
    device, training = _device(data), run.training
    weights = find_weights(run.model.backbone, run.model.weights)
    backbone = build_backbone(weights).to(device)
    head, tuned = (Head(run.model).to(device).train() for _ in range(2))
    for parameter in tuned.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = _sgd(list(tuned.parameters()), training, device)
    index = torch.arange(BATCH, device=device)
    labels = torch.from_numpy(data.acoustic.labels[:BATCH]).to(device)
    images = {m: data.domain(m).take(index) for m in MODALITIES}
    draws = torch.rand(BATCH, 4, device=device)
    features = torch.rand(2, BATCH, 512, device=device, requires_grad=True)

    def batch() -> Tensor:
        made = [augment(m, data.domain(m).take(index), draws) for m in MODALITIES]
        return made[0]

    def pixels() -> Tensor:
        made = [_pixels(backbone, images[m]) for m in MODALITIES]
        return made[0]

    def through_head() -> Tensor:
        out = head(*features)
        loss = fdan_loss(out, labels, labels, training.alpha, run.kernel)
        for parameter in head.parameters():
            parameter.grad = None
        loss.total.backward()
        return loss.total.detach()

    def sgd() -> Tensor:
        optimizer.step()
        return index

    kinds = {"batch": batch, "pixels": pixels, "head": through_head, "SGD, head": sgd}
    return {kind: _repeated(one_step, device) for kind, one_step in kinds.items()}


def synchronisations(run: RunConfig, size: int, device: torch.device) -> float:
    """Of a step on a GPU."""
    data, steps = random_images(run, size, device), STEPS["cuda"]
    counts = []
    for epoch in (ours(run, data, steps), ours(run, data, 2 * steps)):
        epoch()  # records
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                epoch()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        counts.append(sum("called a synchronizing" in str(warning.message) for warning in said))
    assert counts[0] > 0, "an epoch's losses are read at its end: torch counts nothing"
    return (counts[1] - counts[0]) / steps


def _device(data: TrainingData) -> torch.device:
    return data.visual.arrays[0].device


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    described = machine("torch", "torchvision")
    torch.set_num_threads(options.threads or described["cores"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    described |= {"threads": torch.get_num_threads(), "device": name}
    print(heading(described), flush=True)
    on_gpu = device.type == "cuda"
    backbone = options.backbone or ("resnet34" if on_gpu else "resnet18")
    size = options.size or (224 if on_gpu else 96)
    run = RunConfig.from_mapping({"backbone": backbone, "weights": "none", "batch": BATCH})

    waits = None
    with side_stream(device):
        every = calls(run, size, device)
        large = {k: every[k] for k in ("full", "bare", "last", "eager") if k in every}
        turns = by_turns(large, options.rounds, warm=2)
        small = {k: call for k, call in every.items() if k not in large}
        parts = by_turns(small, (1 if on_gpu else 10) * options.rounds, warm=5)
        if on_gpu:
            waits = synchronisations(run, size, device)
    steps = STEPS[device.type]
    ms = {kind: value / steps for kind, value in (turns.ms() | parts.ms()).items()}
    cpu_ms = {kind: value / steps for kind, value in (turns.cpu_ms() | parts.cpu_ms()).items()}
    over = turns.faster("bare", "full") - 1
    print(f"two {backbone}, {size} x {size}, batch {BATCH} + {BATCH}")
    for kind, value in ms.items():
        print(
            f"  {kind:<10}{value:>10.2f} ms{100 * value / ms['bare']:>9.2f} % of bare;"
            f" CPU {cpu_ms[kind]:>9.2f} ms{100 * cpu_ms[kind] / cpu_ms['bare']:>9.2f} %"
        )
    print(f"  last is {turns.faster('last', 'full'):.1f} times as fast as full")
    print(f"  frozen is {ms['full'] / ms['frozen']:.0f} times as fast as full")
    if on_gpu:
        throughput = 1 / (1 + over)
        print(f"  full has {throughput:.3f} of bare's throughput; goal {THROUGHPUT_GOAL}")
        print(f"  recording makes it {ms['eager'] / ms['full']:.1f} times as fast")
        print(f"  synchronisations in a step: {waits:g}; goal 0")
        reached = throughput >= THROUGHPUT_GOAL and waits == 0
    else:
        print(f"  full costs {100 * over:.2f} % over bare; goal {100 * OVER_GOAL:g} %")
        reached = over <= OVER_GOAL
    found = {"machine": described, "backbone": backbone, "size": size, "batch": BATCH}
    found |= {"steps": steps, "synchronisations": waits}
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
