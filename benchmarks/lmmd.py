"""python -m benchmarks.lmmd: the LMMD beside the usual form of it and the loop of the equations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.comparing import by_turns, count, heading, machine, parser, write
from fdan.cli.arguments import exit_code
from fdan.device import choose_device
from fdan.model.local_mmd import lmmd
from fdan.model.network import CLASSES
from fdan.run_config import KernelConfig

ABOUT = """\
LMMD of two batches of N / 2 samples each, 256 features, 5 kernels, 7 classes; forward and backward,
float32, one after another in the same run:

ours       fdan.model.local_mmd: Gram matrix, one matrix of distances for all kernels
usual      written here as DSAN's code is (Zhu et al. 2020): a tensor of all differences (N, N, D),
           a list of kernels, class weights computed on the host with NumPy
loop       Eq. 6-8 pair by pair; at the smallest N only, three times

Time: the median over the rounds of the ratio of two calls that follow each other. Memory: the most
that is allocated at once beyond the inputs, every buffer that torch's allocator gives out counted
(its profiler's records on the CPU, its own maximum on a GPU).

exit codes: 0 the goals are reached at N = 64, 1 one is not: 5 times as fast as the usual form, a
tenth of its memory, values and gradients equal to 1e-4 (relative)"""

WIDTH: Final = 256
KERNEL: Final = KernelConfig()
SPEED_GOAL: Final = 5.0
MEMORY_GOAL: Final = 0.1
EQUAL: Final = 1e-4

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Figures:
    """Of one N. ms: medians; bytes: peaks; apart: the largest relative difference of value and
    gradient between the other forms and ours."""

    n: int
    ms: dict[str, float]
    bytes: dict[str, int]
    faster: float
    apart: float


def ours(z_VD: Tensor, z_AD: Tensor, y_V: Tensor, y_A: Tensor) -> Tensor:
    return lmmd(z_VD, z_AD, y_V, y_A, CLASSES, KERNEL)


def usual(z_VD: Tensor, z_AD: Tensor, y_V: Tensor, y_A: Tensor) -> Tensor:
    v, n = len(z_VD), len(z_VD) + len(z_AD)
    z_ND = torch.cat([z_VD, z_AD])
    one_NND = z_ND.unsqueeze(0).expand(n, n, WIDTH)
    other_NND = z_ND.unsqueeze(1).expand(n, n, WIDTH)
    d2_NN = ((one_NND - other_NND) ** 2).sum(2)
    base = d2_NN.detach().sum() / (n * n - n) / KERNEL.ratio ** (KERNEL.kernels // 2)
    bandwidths = [base * KERNEL.ratio**k for k in range(KERNEL.kernels)]
    k_NN = torch.stack([torch.exp(-d2_NN / b) for b in bandwidths]).sum(0)
    vv, aa, va = (
        torch.from_numpy(weights).to(z_ND.device) for weights in _weights(y_V.cpu(), y_A.cpu())
    )
    return (vv * k_NN[:v, :v]).sum() + (aa * k_NN[v:, v:]).sum() - 2 * (va * k_NN[:v, v:]).sum()


def _weights(y_V: Tensor, y_A: Tensor) -> tuple[Any, Any, Any]:
    """Each pair's weight, (V, V), (A, A) and (V, A), summed class by class."""
    hot_v, hot_a = (np.eye(CLASSES, dtype=np.float32)[y.numpy()] for y in (y_V, y_A))
    common = [c for c in range(CLASSES) if hot_v[:, c].any() and hot_a[:, c].any()]
    vv, aa, va = (
        np.zeros((len(one), len(other)), np.float32)
        for one, other in ((hot_v, hot_v), (hot_a, hot_a), (hot_v, hot_a))
    )
    for c in common:
        w_v, w_a = hot_v[:, c] / hot_v[:, c].sum(), hot_a[:, c] / hot_a[:, c].sum()
        vv += np.outer(w_v, w_v)
        aa += np.outer(w_a, w_a)
        va += np.outer(w_v, w_a)
    return vv / len(common), aa / len(common), va / len(common)


def loop(z_VD: Tensor, z_AD: Tensor, y_V: Tensor, y_A: Tensor) -> Tensor:
    together = [*z_VD, *z_AD]
    n, total = len(together), z_VD.new_zeros(())
    apart = [((x - y) ** 2).sum().detach() for x in together for y in together]
    base = torch.stack(apart).sum() / (n * n - n)

    def k(x: Tensor, y: Tensor) -> Tensor:
        d2, value = ((x - y) ** 2).sum(), x.new_zeros(())
        for i in range(KERNEL.kernels):
            value = value + torch.exp(-d2 / (base * KERNEL.ratio ** (i - KERNEL.kernels // 2)))
        return value

    def mean(some: list[Tensor], others: list[Tensor]) -> Tensor:
        return torch.stack([k(x, y) for x in some for y in others]).mean()

    classes = sorted(set(y_V.tolist()) & set(y_A.tolist()))
    for c in classes:
        v = [z for z, y in zip(z_VD, y_V.tolist(), strict=True) if y == c]
        a = [z for z, y in zip(z_AD, y_A.tolist(), strict=True) if y == c]
        total = total + mean(v, v) + mean(a, a) - 2 * mean(v, a)
    return total / len(classes)


def measure(n: int, rounds: int, device: torch.device, with_loop: bool) -> Figures:
    batch = inputs(n, device)
    forms: dict[str, Form] = {"ours": ours, "usual": usual}
    if with_loop:
        forms["loop"] = loop
    found = {name: gradients(form, *batch) for name, form in forms.items()}
    apart = max(
        float((other - mine).norm() / other.norm())
        for name in forms
        for mine, other in zip(found["ours"], found[name], strict=True)
    )
    calls = {name: _call(forms[name], batch) for name in ("ours", "usual")}
    turns = by_turns(calls, rounds, warm=5)
    ms, faster = turns.ms(), turns.faster("ours", "usual")
    if with_loop:
        ms |= by_turns({"loop": _call(loop, batch)}, 3, warm=0).ms()
    return Figures(
        n=n,
        ms=ms,
        bytes={name: peak(_call(form, batch), device) for name, form in forms.items()},
        faster=faster,
        apart=apart,
    )


def inputs(n: int, device: torch.device) -> tuple[Tensor, ...]:
    """Features such as a LayerNorm gives, of two modalities that differ a little; every class is
    in both, but for those of a batch smaller than that."""
    generator = torch.Generator().manual_seed(0)
    z_VD, z_AD = (torch.randn(n // 2, WIDTH, generator=generator) + shift for shift in (0.0, 0.1))
    y = torch.arange(n // 2) % CLASSES
    return tuple(t.to(device) for t in (z_VD, z_AD, y, y.flip(0)))


def gradients(
    form: Form, z_VD: Tensor, z_AD: Tensor, y_V: Tensor, y_A: Tensor
) -> tuple[Tensor, ...]:
    """The value and its gradient."""
    z_VD, z_AD = z_VD.detach().requires_grad_(), z_AD.detach().requires_grad_()
    value = form(z_VD, z_AD, y_V, y_A)
    return (value.detach(), *torch.autograd.grad(value, (z_VD, z_AD)))


def _call(form: Form, batch: tuple[Tensor, ...]) -> Callable[[], None]:
    def call() -> None:
        gradients(form, *batch)
        if batch[0].is_cuda:
            torch.cuda.synchronize()

    return call


def peak(call: Callable[[], None], device: torch.device) -> int:
    """Bytes allocated at once, at most, beyond what there was before."""
    call()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True, acc_events=True) as profile:
        call()
    results = profile.profiler.kineto_results  # type: ignore[union-attr]
    records = [event for event in results.events() if event.name() == "[memory]"]
    now = most = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        now += record.nbytes()
        most = max(most, now)
    return most


def main(arguments: list[str] | None = None) -> int:
    made = parser("lmmd", ABOUT, rounds=200)
    made.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    made.add_argument(
        "--threads",
        type=count,
        default=1,
        metavar="INT",
        help="torch's (default: 1, as each of a search's trials side by side has)",
    )
    made.add_argument(
        "--sizes",
        type=count,
        nargs="+",
        default=[64, 128, 256],
        metavar="N",
        help="samples of both batches together (default: 64 128 256)",
    )
    options = made.parse_args(arguments)
    device = choose_device(options.device)
    described = machine("torch", "numpy")
    torch.set_num_threads(options.threads)
    described |= {"threads": torch.get_num_threads(), "device": _name(device)}
    print(heading(described))
    found = []
    print(f"{'N':>5}{'ours':>16}{'usual':>20}{'loop':>20}{'faster':>9}{'memory':>9}{'apart':>9}")
    for n in options.sizes:
        one = measure(n, options.rounds, device, with_loop=n == min(options.sizes))
        found.append(one)
        cells = [
            f"{one.ms[name]:.2f} ms {one.bytes[name] / 2**20:.2f} MiB" if name in one.ms else ""
            for name in ("ours", "usual", "loop")
        ]
        print(
            f"{n:>5}{cells[0]:>19}{cells[1]:>19}{cells[2]:>19}{one.faster:>8.1f}x"
            f"{one.bytes['ours'] / one.bytes['usual']:>8.3f}x{one.apart:>9.0e}"
        )
    write(options.json, {"machine": described, "sizes": [asdict(one) for one in found]})
    reached = all(
        one.faster >= SPEED_GOAL
        and one.bytes["ours"] <= MEMORY_GOAL * one.bytes["usual"]
        and one.apart <= EQUAL
        for one in found
        if one.n == 64
    )
    print(
        f"at N = 64: goals {SPEED_GOAL:g} times as fast, {MEMORY_GOAL:g} of the memory:"
        f" {'reached' if reached else 'missed'}"
    )
    return 0 if reached else 1


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    sys.exit(exit_code(main))
