"""All that depends on the machine: the device, precision, bit-for-bit repeatability, seeds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from fdan.errors import DeviceError

DEVICES = "auto, cpu, cuda, cuda:0 ..."


def choose_device(name: str | torch.device) -> torch.device:
    """The device called `name`; auto is the GPU if there is one. DeviceError if there is no such
    device here."""
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
"""GPU memory that a process takes for CUDA itself, which torch does not count: about 500 MiB
is usual, and this is on the safe side."""


def limit_gpu_memory(share: float) -> None:
    """Give this process at most a `share` (0 .. 1) of its GPU's memory, CUDA's own part included:
    whatever needs more raises torch.cuda.OutOfMemoryError, and neighbours do not notice."""
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, share - CONTEXT_BYTES / whole))


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Inside, a GPU that has units for it computes products and convolutions in bfloat16, from
    weights that stay float32; the results are bfloat16. Elsewhere nothing changes."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16)


@contextmanager
def single_thread() -> Iterator[None]:
    """Torch computes with one CPU thread inside: another number of threads sums in another order,
    and behind an untrained backbone that shows in the sixth digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """A GPU computes convolutions in float32 inside, not in TF32: features that are stored for all
    devices are then the same, but for rounding."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def seed_for(*parts: int) -> int:
    """One 63-bit seed out of several numbers, such as (seed, stream, epoch)."""
    high, low = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return (int(high) << 32 | int(low)) >> 1


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global CPU generator starts from `seed` inside, and is as before outside: for
    constructors, which draw initial weights from it. Networks are built on the CPU.

    Args:
        seed: The seed.
        device: A GPU whose generator starts from it, too: for what is drawn in training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On the CPU, use algorithms whose result is the same each time (for one number of threads)."""
    if device.type != "cpu":
        yield
        return
    before = torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic  # a module whose settings are properties
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        memory.fill_uninitialized_memory = fill
