"""What depends on the machine: the device, precision, the optimizer's form, bit-for-bit
repeatability, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd
from torch.overrides import TorchFunctionMode

from fdan.errors import DeviceError

DEVICES = "auto, cpu, cuda, cuda:0 ..."


def choose_device(name: str | torch.device) -> torch.device:
    """The device called `name`; auto is the GPU if there is one. DeviceError if it is not there."""
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise DeviceError(f"device '{name}': not a device. Known: {DEVICES}") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise DeviceError(f"device '{name}' is not supported. Known: {DEVICES}")
    count = torch.cuda.device_count()
    if count == 0:
        raise DeviceError(f"device '{name}': this machine has no usable GPU; use cpu or auto")
    if (device.index or 0) >= count:
        raise DeviceError(f"device '{name}': this machine has {count} GPU(s), cuda:0 is the first")
    return torch.device("cuda", device.index or 0)


CONTEXT_BYTES = 600 * 2**20
"""Of a GPU's memory, what a process takes for CUDA itself, outside of torch's reckoning: about 500
MiB is usual, and this is on the safe side."""


def limit_gpu_memory(share: float) -> None:
    """This process gets no more than a `share` of its GPU's memory, CUDA's own part included: what
    asks for more raises torch.cuda.OutOfMemoryError, and neighbours do not notice."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / whole))


def half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Products and convolutions inside are computed in bfloat16 by a GPU that has units for it, of
    weights that stay float32; their results are bfloat16. Everywhere else nothing changes."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Networks are built inside without storage, to be given their values afterwards."""
    with torch.device("meta"), _NoInitialValues():
        yield


_DRAWS: Final = (Tensor.normal_, Tensor.uniform_)


class _NoInitialValues(TorchFunctionMode):
    """Tensors without storage have no values to draw; torch would go through the motions all the
    same, and import its compiler for them (2 to 3 s)."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", "") == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch computes inside with one CPU thread: another number of them sums in another order, and
    behind an untrained backbone that shows in the sixth digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions inside are computed in float32 by a GPU, too, which else rounds what it
    multiplies to TF32: what is kept for all devices is then the same, but for rounding."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class SGD:
    """Stochastic gradient descent with momentum and weight decay, by torch.optim's function for it:
    its class does the same, and imports torch's compiler first, a second in every process.

    On a GPU it is one kernel for all parameters, which reads the learning rate there, so that a
    recorded step sees each new one.
    """

    def __init__(
        self, groups: list[dict[str, Any]], momentum: float, decay: float, device: torch.device
    ) -> None:
        """groups: of params and their initial_lr."""
        self._fused = device.type == "cuda"
        self._momentum, self._decay = momentum, decay
        self.param_groups = [group | {"lr": self._rate(group, device)} for group in groups]
        self.momenta: dict[Tensor, Tensor] = {}
        """Of the parameters, from their first step on; none where there is no momentum."""

    def _rate(self, group: dict[str, Any], device: torch.device) -> float | Tensor:
        rate: float = group["initial_lr"]
        return torch.tensor(rate).to(device) if self._fused else rate

    def zero_grad(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            momenta = [self.momenta.get(p) for p in parameters]
            sgd(
                parameters,
                [p.grad for p in parameters],
                momenta,  # with those of a first step when this returns
                foreach=not self._fused,
                fused=self._fused,
                weight_decay=self._decay,
                momentum=self._momentum,
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            moved = zip(parameters, momenta, strict=True)
            self.momenta |= {p: momentum for p, momentum in moved if momentum is not None}


def set_rate(group: dict[str, Any], rate: float) -> None:
    """A parameter group's learning rate, from its next step on."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def seed_for(*parts: int) -> int:
    """One 63-bit seed out of several numbers, such as (seed, stream, epoch)."""
    high, low = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return (int(high) << 32 | int(low)) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator starts from `seed` inside, and is as before outside. For
    constructors that draw their initial weights from it; everything is built on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On the CPU, algorithms whose result is the same each time (for one number of threads)."""
    if device.type != "cpu":
        yield
        return
    # By number, since torch.use_deterministic_algorithms imports torch's compiler.
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # a module whose settings are properties
    fill = memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = fill
