"""Groups on a GPU: the numbers of a run alone there, and a step that can be captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fdan.run_config import RunConfig
from fdan.training.group import MemberEpoch, train_group
from fdan.training.group_heads import StackedHeads
from fdan.training.train import Diverged, RunProgress, train
from fdan.training.training_data import TrainingData

Make = Callable[..., Any]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

OWN: list[dict[str, Any]] = [
    {"alpha": 0.3, "seed": 1},
    {"alpha": 0.0, "lr": 0.02, "kernels": 1},
    {"alpha": 1e-3, "momentum": 0.0, "decay": 0.0},
]


def heads_of(runs: list[RunConfig], data: TrainingData) -> StackedHeads:
    networks = [RunProgress(run, data, None).start_network()[0] for run in runs]
    return StackedHeads(runs, networks, [{} for _ in runs], torch.device("cuda", 0))


def inputs(runs: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = [torch.rand(runs, 8, 512, generator=generator) for _ in range(2)]
    y = [torch.randint(0, 7, (runs, 8), generator=generator) for _ in range(2)]
    return tuple(t.cuda() for t in (*x, *y, torch.full((runs,), 0.01)))


@contextmanager
def no_synchronisation() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_each_run_is_what_it_is_alone(layers: int, frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    runs = [run_of(layers=layers, **own) for own in OWN]
    told: list[list[Any]] = [[] for _ in runs]

    def report(members: Sequence[MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
        assert not diverged
        for index, epoch, make in members:
            told[index].append((epoch, make()))

    train_group(runs, data, report, device="cuda")
    for run, its in zip(runs, told, strict=True):
        alone: list[Any] = []
        train(run, data, lambda report, made, to=alone: to.append((report, made())), device="cuda")
        for (report, checkpoint), (expected, its_own) in zip(its, alone, strict=True):
            for name in ("train/loss", "train/lmmd", "validation/loss"):
                assert report.metrics[name] == pytest.approx(expected.metrics[name], abs=1e-4)
            for name, tensor in checkpoint.tensors.items():
                torch.testing.assert_close(tensor, its_own.tensors[name], rtol=1e-4, atol=1e-4)


def test_a_step_waits_for_nothing(frozen_data: Make, run_of: Make) -> None:
    runs = [run_of(layers=2, **own) for own in OWN]
    heads, batch = heads_of(runs, frozen_data()), inputs(len(runs))
    heads.step(*batch)
    torch.cuda.synchronize()
    with no_synchronisation():
        heads.step(*batch)


def test_a_captured_step_is_the_step(frozen_data: Make, run_of: Make) -> None:
    runs, data = [run_of(layers=2, **own) for own in OWN], frozen_data()
    eager, captured = heads_of(runs, data), heads_of(runs, data)
    batch = inputs(len(runs))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a first step, as any capture wants one
        captured.step(*batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = captured.step(*batch)

    eager.step(*batch)
    for _ in range(3):
        graph.replay()
        torch.testing.assert_close(losses, eager.step(*batch), rtol=1e-4, atol=1e-5)
    for row in range(len(runs)):
        ours, theirs = captured.checkpoint_tensors(row), eager.checkpoint_tensors(row)
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)
