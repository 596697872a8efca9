"""The LMMD against slow loops over Eq. 6-8, and its properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fdan.errors import ConfigError
from fdan.model.local_mmd import lmmd
from fdan.run_config import KernelConfig

CLASSES = 7


def by_loops(
    z_v: Tensor, z_a: Tensor, y_v: Tensor, y_a: Tensor, classes: int, config: KernelConfig
) -> Tensor:
    """Eq. 6-8 term by term, over the classes that both modalities have."""
    together = [*z_v, *z_a]
    n = len(together)
    if config.bandwidth is None:
        base = 0.0
        for i in range(n):
            for j in range(n):
                if i != j:
                    base += float(((together[i] - together[j]) ** 2).sum().detach())
        base /= n * n - n
    else:
        base = config.bandwidth

    def k(x: Tensor, y: Tensor) -> Tensor:
        d2 = ((x - y) ** 2).sum()
        total = torch.zeros((), dtype=x.dtype)
        for i in range(config.kernels):
            bandwidth = base * config.scale * config.ratio ** (i - config.kernels // 2)
            total = total + torch.exp(-d2 / bandwidth)
        return total

    def weight(y: Tensor, n: int, c: int) -> float:
        return float(int(y[n]) == c) / sum(int(label) == c for label in y)

    common = [c for c in range(classes) if (y_v == c).any() and (y_a == c).any()]
    total = 0 * (z_v.sum() + z_a.sum())
    for c in common:
        for m in range(len(z_v)):
            for n in range(len(z_v)):
                total = total + weight(y_v, m, c) * weight(y_v, n, c) * k(z_v[m], z_v[n])
        for m in range(len(z_a)):
            for n in range(len(z_a)):
                total = total + weight(y_a, m, c) * weight(y_a, n, c) * k(z_a[m], z_a[n])
        for m in range(len(z_v)):
            for n in range(len(z_a)):
                total = total - 2 * weight(y_v, m, c) * weight(y_a, n, c) * k(z_v[m], z_a[n])
    return total / len(common) if common else total


def with_gradient(function: Any, z_v: Tensor, z_a: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    z_v, z_a = z_v.clone().requires_grad_(), z_a.clone().requires_grad_()
    value = function(z_v, z_a, *rest)
    return (value.detach(), *torch.autograd.grad(value, (z_v, z_a)))


@st.composite
def batches(draw: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, KernelConfig]:
    """float64 features of unlike location and scale; classes absent from one side or from both."""
    n_v, n_a = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    width = draw(st.integers(1, 6))
    some_v = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=4))
    some_a = draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=4))
    z_v = torch.from_numpy(random.normal(size=(n_v, width)))
    z_a = torch.from_numpy(random.normal(0.5, 1.5, size=(n_a, width)))
    config = KernelConfig(
        kernels=draw(st.integers(1, 7)),
        ratio=draw(st.sampled_from([1.0, 1.7, 2.0, 3.0])),
        scale=draw(st.sampled_from([0.5, 1.0, 2.0])),
        bandwidth=draw(st.sampled_from([None, 0.8, 4.0])),
    )
    y_v = torch.from_numpy(random.choice(some_v, n_v))
    y_a = torch.from_numpy(random.choice(some_a, n_a))
    return z_v, z_a, y_v, y_a, config


@settings(max_examples=60, deadline=None)
@given(batches())
def test_value_and_gradient_are_those_of_the_equations(batch: Any) -> None:
    z_v, z_a, *rest = batch
    rest.insert(2, CLASSES)
    z_v, z_a = z_v.float().double(), z_a.float().double()  # the same numbers in both types
    expected = with_gradient(by_loops, z_v, z_a, *rest)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        found = with_gradient(lmmd, z_v.to(dtype), z_a.to(dtype), *rest)
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


def test_a_case_worked_by_hand() -> None:
    # One class, one feature: faces at 0, speech at 0 and 2; one Gaussian of bandwidth 4.
    # 1 + (1 + 1 + 2 e^-1) / 4 - 2 (1 + e^-1) / 2 = (1 - e^-1) / 2
    found = lmmd(
        torch.tensor([[0.0]], dtype=torch.float64),
        torch.tensor([[0.0], [2.0]], dtype=torch.float64),
        torch.tensor([3]),
        torch.tensor([3, 3]),
        CLASSES,
        KernelConfig(kernels=1, bandwidth=4.0),
    )
    assert float(found) == pytest.approx((1 - math.exp(-1)) / 2, abs=1e-12)


def sample(seed: int, n_v: int = 8, n_a: int = 5, width: int = 4) -> tuple[Tensor, ...]:
    random = np.random.default_rng(seed)
    return (
        torch.from_numpy(random.normal(size=(n_v, width))),
        torch.from_numpy(random.normal(0.3, 1.2, size=(n_a, width))),
        torch.from_numpy(random.integers(0, 3, n_v)),
        torch.from_numpy(random.integers(0, 3, n_a)),
    )


def test_finite_differences_with_a_fixed_bandwidth() -> None:
    z_v, z_a, y_v, y_a = sample(1)
    config = KernelConfig(kernels=3, bandwidth=2.0)
    assert torch.autograd.gradcheck(
        lambda v, a: lmmd(v, a, y_v, y_a, CLASSES, config),
        (z_v.requires_grad_(), z_a.requires_grad_()),
    )


def test_the_mean_distance_is_a_constant_to_the_gradient() -> None:
    z_v, z_a, y_v, y_a = sample(2)
    together = torch.cat([z_v, z_a])
    n = len(together)
    base = float(torch.cdist(together, together).square().sum() / (n * n - n))
    free = with_gradient(lmmd, z_v, z_a, y_v, y_a, CLASSES, KernelConfig())
    frozen = with_gradient(lmmd, z_v, z_a, y_v, y_a, CLASSES, KernelConfig(bandwidth=base))
    for got, want in zip(free, frozen, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    # And that gradient is right: differences taken with the base held still.
    step, moved = 1e-6, z_v.clone()
    config = KernelConfig(bandwidth=base)
    for i, j in ((0, 0), (3, 2), (7, 3)):
        moved[i, j] += step
        above = lmmd(moved, z_a, y_v, y_a, CLASSES, config)
        moved[i, j] -= 2 * step
        below = lmmd(moved, z_a, y_v, y_a, CLASSES, config)
        moved[i, j] += step
        assert float((above - below) / (2 * step)) == pytest.approx(float(free[1][i, j]), abs=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_for_identical_class_conditional_samples(dtype: torch.dtype) -> None:
    z, _, y, _ = sample(3)
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))
    # Twice the samples in another order: the same distribution in each class.
    value, grad_v, grad_a = with_gradient(
        lmmd,
        z.to(dtype),
        torch.cat([z[order], z]).to(dtype),
        y,
        torch.cat([y[order], y]),
        CLASSES,
        KernelConfig(),
    )
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    assert abs(float(value)) < tolerance
    assert grad_v.abs().max() < tolerance and grad_a.abs().max() < tolerance


@settings(max_examples=20, deadline=None)
@given(batches(), st.integers(0, 2**32))
def test_the_order_of_samples_does_not_matter(batch: Any, seed: int) -> None:
    z_v, z_a, y_v, y_a, config = batch
    random = np.random.default_rng(seed)
    p_v = torch.from_numpy(random.permutation(len(z_v)))
    p_a = torch.from_numpy(random.permutation(len(z_a)))
    before = lmmd(z_v, z_a, y_v, y_a, CLASSES, config)
    after = lmmd(z_v[p_v], z_a[p_a], y_v[p_v], y_a[p_a], CLASSES, config)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)
    swapped = lmmd(z_a, z_v, y_a, y_v, CLASSES, config)
    torch.testing.assert_close(swapped, before, rtol=1e-10, atol=1e-12)


def test_without_a_common_class_value_and_gradient_are_zero() -> None:
    z_v, z_a, _, _ = sample(4)
    y_v, y_a = torch.zeros(len(z_v), dtype=torch.int64), torch.ones(len(z_a), dtype=torch.int64)
    value, grad_v, grad_a = with_gradient(lmmd, z_v, z_a, y_v, y_a, CLASSES, KernelConfig())
    assert float(value) == 0.0
    assert grad_v.abs().max() == 0 and grad_a.abs().max() == 0


def test_more_classes_than_are_there_change_nothing() -> None:
    z_v, z_a, y_v, y_a = sample(5)
    few, many = (lmmd(z_v, z_a, y_v, y_a, c, KernelConfig()) for c in (3, 20))
    torch.testing.assert_close(few, many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_all_coincide_are_no_trouble(dtype: torch.dtype) -> None:
    z, y = torch.full((4, 3), 7.0, dtype=dtype), torch.tensor([0, 0, 1, 1])
    value, grad_v, grad_a = with_gradient(lmmd, z, z, y, y, CLASSES, KernelConfig(kernels=7))
    assert float(value) == 0.0
    assert torch.isfinite(grad_v).all() and torch.isfinite(grad_a).all()


def test_rounding_never_makes_a_distance_negative() -> None:
    # The same samples on both sides, and a bandwidth below their distances' rounding errors.
    z, y = (100 * sample(8, 40, 1, 64)[0]).float(), torch.arange(40) % CLASSES
    found = lmmd(z, z.clone(), y, y, CLASSES, KernelConfig(kernels=1, bandwidth=1e-6))
    assert 0 <= float(found) <= 4  # four means of kernels, each at most 1


def test_float32_far_from_the_origin() -> None:
    # Distances of about 1 between points 1000 away: a Gram form about the origin has none left.
    z_v, z_a, y_v, y_a = sample(6)
    expected = lmmd(z_v, z_a, y_v, y_a, CLASSES, KernelConfig())
    moved = (
        ((z * 256).round() / 256 + 1000).float() for z in (z_v, z_a)
    )  # exact in float32, so that only our arithmetic is judged
    found = lmmd(*moved, y_v, y_a, CLASSES, KernelConfig())
    assert float(found) == pytest.approx(float(expected), abs=5e-3)
    exact = lmmd(*((z * 256).round() / 256 for z in (z_v, z_a)), y_v, y_a, CLASSES, KernelConfig())
    assert float(found) == pytest.approx(float(exact), abs=2e-5)


class Recorder(TorchDispatchMode):
    """Every operation's name and the size of its largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        size = max((t.numel() for t in (out if isinstance(out, tuple) else (out,))), default=0)
        self.seen.append((str(func), size))
        return out


def test_work_does_not_grow_with_classes_or_samples_and_waits_for_nothing() -> None:
    def operations(n: int, classes: int) -> list[tuple[str, int]]:
        z_v, z_a, y_v, y_a = sample(7, n, n, 64)
        with Recorder() as recorder:
            lmmd(z_v.requires_grad_(), z_a, y_v, y_a, classes, KernelConfig()).backward()
        return recorder.seen

    few, many = operations(6, 3), operations(30, 20)
    assert [name for name, _ in few] == [name for name, _ in many]
    # No (N, N, D): five kernels of (N, N) are the largest thing held.
    assert max(size for _, size in many) == 5 * 60 * 60
    waits = ("_local_scalar_dense", "nonzero", "index.Tensor", "copy_.", "masked_select")
    for name, _ in many:
        assert not any(f"aten.{wait}" in name for wait in waits), name


def test_nothing_is_read_back_from_the_device() -> None:
    # Meta tensors have no values: anything that looks at one, or makes a CPU tensor, raises.
    z_v = torch.empty((8, 4), device="meta", requires_grad=True)
    z_a, y = torch.empty((5, 4), device="meta"), torch.empty(8, dtype=torch.int64, device="meta")
    value = lmmd(z_v, z_a, y, y[:5], CLASSES, KernelConfig())
    value.backward()
    assert value.device.type == "meta" and value.shape == ()


@pytest.mark.parametrize(
    "bad", [{"kernels": 0}, {"ratio": 0.5}, {"scale": 0.0}, {"bandwidth": -1.0}]
)
def test_kernels_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        KernelConfig(**bad)
