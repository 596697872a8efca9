"""A step as a GPU runs it, as far as that can be shown without one: nothing looks at a number,
recorded calls are the calls, and what must be float32 is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fdan.device import half_precision
from fdan.machine.cuda_graph import Call, GraphedFunction
from fdan.model.backbones import build_backbone, find_weights
from fdan.model.network import Head
from fdan.run_config import RunConfig
from fdan.training import train as training
from fdan.training.augment import DRAWS
from fdan.training.checkpoint import Checkpoint
from fdan.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from fdan.training.train import RunProgress, train
from fdan.training.training_data import TrainingData

Make = Callable[..., Any]

META = torch.device("meta")
FULL: dict[str, Any] = {"tuning": "full", "batch": 5, "epochs": 4}


def last_of(run: RunConfig, data: TrainingData) -> Checkpoint:
    return train(run, data, lambda *_: None)


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.history == other.history
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


# Nothing waits for the device


class NothingFromTheHost(TorchDispatchMode):
    """What computes with a tensor of the host would wait for it on a GPU. Tensors on the meta
    device have no values: who looks at one is refused by torch itself."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                assert leaf.device == META, f"{func} with a tensor on the {leaf.device}"
        return out


def a_step(run: RunConfig, data: TrainingData) -> Callable[[], Tensor]:
    """On the meta device."""
    network = RunProgress(run, data, None).start_network()[0].train().to(META)
    data = data.to(META)
    optimizer = make_optimizer(network, run.training, 0, {})
    inputs = []
    for modality in ("visual", "acoustic"):
        inputs += [torch.zeros(8, dtype=torch.int64, device=META) for _ in range(2)]
        inputs += [torch.zeros(8, DRAWS[modality], device=META)]
    one_step = training._make_step(network, optimizer, run, data)
    return lambda: one_step(*inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "full", "layers": 2, "alpha": 0.1},
        {"tuning": "full", "layers": 0, "alpha": 0.0, "momentum": 0.0},
        {"tuning": "last", "layers": 1, "alpha": 0.1},
        {"tuning": "last", "layers": 1, "mixup": 0.2, "system": "speech"},
        {"tuning": "frozen", "layers": 1, "alpha": 0.1},
        {"tuning": "frozen", "layers": 0, "bandwidth": 2.0},
    ],
)
def test_a_step_looks_at_no_number(settings: dict[str, Any], data_of: Make, run_of: Make) -> None:
    data = data_of(settings["tuning"])
    step = a_step(run_of(**settings), data)
    with NothingFromTheHost():
        for _ in range(2):
            assert step().shape == (4,)


@pytest.mark.parametrize("look", ["item", "truth", "nonzero", "constant"])
def test_that_test_sees_who_looks(
    look: str, frozen_data: Make, run_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: dict[str, Callable[[Tensor], object]] = {
        "item": lambda z: z.sum().item(),
        "truth": lambda z: bool((z > 0).any()),
        "nonzero": lambda z: z.nonzero().shape,
        "constant": lambda z: z * torch.ones(1).to(z.device),
    }

    def fdan_loss(out: Any, *rest: Any) -> Any:
        looks[look](out.logits_v)
        return original(out, *rest)

    original = training.fdan_loss
    monkeypatch.setattr(training, "fdan_loss", fdan_loss)
    step = a_step(run_of(), frozen_data())
    with (
        NothingFromTheHost(),
        pytest.raises((RuntimeError, NotImplementedError, AssertionError), match=r"meta|cpu"),
    ):
        step()


# Recorded and replayed


class Tape:
    """Records on the CPU as a GPU does: without computing, and with the inputs where they were."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, call: Call) -> Call:
        self.recorded += 1
        return call


def test_calls_are_eager_at_first_then_recorded_once_for_each_shape() -> None:
    seen: list[tuple[int, list[float]]] = []

    def double(x: Tensor) -> Tensor:
        seen.append((x.data_ptr(), x.tolist()))
        return 2 * x

    tape = Tape()
    call = GraphedFunction(double, tape.record)
    for n in range(6):
        for size in (3, 2):
            x = torch.full((size,), float(n))
            assert torch.equal(call(x), 2 * x)
            assert (seen[-1][0] == x.data_ptr()) == (n < 2)  # its own place from the third on
            assert seen[-1][1] == x.tolist()
    assert tape.recorded == 2 and len(seen) == 12
    assert len({place for place, values in seen[4:] if len(values) == 3}) == 1


@pytest.mark.parametrize("tuning", ["frozen", "last", "full"])
def test_training_from_recordings_is_training(
    tuning: str,
    data_of: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_of(batch=9) if tuning == "frozen" else run_of(**{**FULL, "tuning": tuning})
    data = data_of(tuning)
    assert len(data.acoustic_train) % run.training.batch > 1, "a last batch of another size"
    plain, tape = last_of(run, data), Tape()
    monkeypatch.setattr(
        training, "make_graphed", lambda step, device: GraphedFunction(step, tape.record)
    )
    assert_same(last_of(run, data), plain)
    assert tape.recorded == 2


def test_a_recording_that_fails_is_said_once_and_training_goes_on(
    frozen_data: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, run, tried = frozen_data(), run_of(epochs=4), []

    def record(call: Call) -> Call:
        tried.append(call)
        try:
            raise RuntimeError("no such thing here\nC++ stack:\n...")
        finally:
            raise RuntimeError("capture_end: invalidated")

    plain = last_of(run, data)
    monkeypatch.setattr(
        training, "make_graphed", lambda step, device: GraphedFunction(step, record)
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_same(last_of(run, data), plain)
    assert len(tried) == 2  # one try a run
    assert [entry.message for entry in caplog.records] == [
        "training steps are not recorded as a CUDA graph, which is slower: no such thing here"
    ]


def test_on_the_cpu_a_step_stays_a_function() -> None:
    from fdan.machine.cuda_graph import make_graphed, side_stream

    cpu = torch.device("cpu")
    assert make_graphed(torch.sum, cpu) is torch.sum
    with side_stream(cpu), half_precision(cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


# Precision


def test_what_follows_the_backbones_is_float32(
    image_data: Make, run_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU's bfloat16 in the GPU's place."""
    types: dict[str, set[torch.dtype]] = {"head": set(), "convolutions": set()}

    @contextlib.contextmanager
    def half(device: torch.device) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16):
            yield

    run, data = run_of(**FULL | {"alpha": 0.1}), image_data()
    index = torch.arange(5)
    draws = {modality: torch.full((5, count), 0.3) for modality, count in DRAWS.items()}
    losses = []
    for precision in (half_precision, half):
        monkeypatch.setattr(training, "half_precision", precision)
        network = RunProgress(run, data, None).start_network()[0].train()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda m, i, o: types["convolutions"].add(o.dtype))
            if isinstance(module, (Head, torch.nn.LayerNorm)):
                module.register_forward_pre_hook(
                    lambda m, inputs: types["head"].update(x.dtype for x in inputs)
                )
        optimizer = make_optimizer(network, run.training, 0, {})
        step = training._make_step(network, optimizer, run, data)
        losses.append(step(index, index, draws["visual"], index, index, draws["acoustic"]))
        assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}
    torch.testing.assert_close(*losses, rtol=0.02, atol=0)
    assert not torch.equal(*losses)
    assert types == {
        "head": {torch.float32},
        "convolutions": {torch.float32, torch.bfloat16},
    }


# Memory layout


def channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def test_a_backbone_is_channels_last_throughout() -> None:
    backbone = build_backbone(find_weights("resnet18", "none")).train()
    seen: list[bool] = []
    for module in backbone.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.MaxPool2d)):
            module.register_forward_hook(lambda m, i, o: seen.append(channels_last(o)))
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    backbone(images).sum().backward()
    assert len(seen) > 40 and all(seen)
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None
        if parameter.ndim == 4:
            assert channels_last(parameter) and channels_last(parameter.grad), name


def test_momentum_lies_as_its_parameter_does_after_going_on(image_data: Make, run_of: Make) -> None:
    run, data = run_of(**FULL | {"epochs": 1}), image_data()
    last = last_of(run, data)
    # As a file holds them.
    plain = {name: tensor.contiguous() for name, tensor in last.tensors.items()}
    network = RunProgress(run, data, None).start_network()[0]
    optimizer = make_optimizer(network, run.training, last.step, plain)
    for parameter in network.parameters():
        momentum = optimizer.state[parameter]["momentum_buffer"]
        assert momentum.stride() == parameter.stride()
        assert not momentum.requires_grad


# The optimizer


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_backbones_learn_at_a_tenth_of_the_heads_rate_and_momentum_goes_on(
    momentum: float, image_data: Make, run_of: Make
) -> None:
    """And the schedule lowers both."""
    run, data = run_of(**FULL | {"momentum": momentum, "epochs": 1}), image_data()
    last = last_of(run, data)
    network = RunProgress(run, data, None).start_network()[0]
    optimizer = make_optimizer(network, run.training, last.step, last.tensors)
    assert isinstance(optimizer, torch.optim.SGD)
    set_learning_rate(optimizer, learning_rate_factor(run.training, 100, last.step))
    head, backbones = optimizer.param_groups
    assert head["lr"] == pytest.approx(run.training.lr * 1.03**-0.75)
    assert backbones["lr"] == pytest.approx(head["lr"] / 10)
    assert len(head["params"]) + len(backbones["params"]) == len(list(network.parameters()))
    held = {name for name in last.tensors if name.startswith("momentum.")}
    named = {f"momentum.{name}" for name, _ in network.named_parameters()}
    assert held == (named if momentum else set())
    for name, parameter in network.named_parameters():
        if momentum:
            buffer = optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(buffer, last.tensors[f"momentum.{name}"])


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_rate_in_a_tensor_is_the_rate(momentum: float) -> None:
    """As on a GPU, where one kernel for all parameters reads it."""
    ours, theirs = (
        [torch.arange(12.0).reshape(3, 4).requires_grad_(), torch.ones(5, requires_grad=True)]
        for _ in range(2)
    )
    options = {"momentum": momentum, "weight_decay": 0.03}
    fused = torch.optim.SGD(
        [{"params": ours, "lr": torch.tensor(0.1), "initial_lr": 0.1}], fused=True, **options
    )
    plain = torch.optim.SGD([{"params": theirs, "lr": 0.1, "initial_lr": 0.1}], **options)
    for number in range(4):
        for parameter in (*ours, *theirs):
            parameter.grad = torch.full_like(parameter, 0.1 * number + 0.1)
        for optimizer in (fused, plain):
            set_learning_rate(optimizer, (1 + 0.3 * number) ** -0.75)
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)
