"""The local maximum mean discrepancy between two modalities (paper, Eq. 5-8; Zhu et al. 2020).

Shapes: V visual samples, A acoustic samples, N = V + A, D features, C classes, K kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fdan.run_config import KernelConfig


class Kernel(NamedTuple):
    """A KernelConfig's Gaussians: b_k = base * scale * powers[k]."""

    bandwidth: Tensor | float | None  # the base; None takes each batch's mean squared distance
    scale: Tensor | float
    # (K,). An infinite one is no Gaussian: it adds a constant to the kernel, which Eq. 8 cancels.
    powers: Tensor

    @classmethod
    def from_config(cls, config: KernelConfig, like: Tensor) -> Kernel:
        """The kernel of a configuration.

        Args:
            config: Settings of the kernel.
            like: Tensor whose device and type are used.
        """
        k_K = torch.arange(config.kernels, dtype=like.dtype, device=like.device)
        powers = config.ratio ** (k_K - config.kernels // 2)
        return cls(config.bandwidth, config.scale, powers)


def lmmd(
    z_VD: Tensor,
    z_AD: Tensor,
    y_V: Tensor,
    y_A: Tensor,
    classes: int,
    kernel: KernelConfig | Kernel,
) -> Tensor:
    """d(p_v, p_a) of Eq. 8: the mean over classes of the squared distance of the two modalities'
    class means in the kernel's space, a scalar.

    The mean is over the classes present in both batches (1/C of Eq. 6 when all are); without a
    common class it is 0 and so is its gradient. The base bandwidth is a constant to the gradient,
    as in DSAN. Nothing here waits for the device or moves data between devices.

    Args:
        z_VD: Visual features, float32 or float64.
        z_AD: Acoustic features, of the same type.
        y_V: Classes, int64, in 0 .. classes - 1; of samples that were mixed, (V, C) shares of each.
        y_A: Classes of the acoustic samples.
        classes: Number of classes.
        kernel: Kernel k of Eq. 8.
    """
    n_v, n_a = z_VD.shape[0], z_AD.shape[0]
    assert n_v > 0 and n_a > 0, "each modality needs a sample"
    z_ND = torch.cat([z_VD, z_AD])
    k_NN = _kernel(z_ND, kernel if isinstance(kernel, Kernel) else Kernel.from_config(kernel, z_ND))

    s_VC, t_AC = _one_hot(y_V, classes, z_ND.dtype), _one_hot(y_A, classes, z_ND.dtype)
    count_v_C, count_a_C = s_VC.sum(0), t_AC.sum(0)
    common_C = ((count_v_C > 0) & (count_a_C > 0)).to(z_ND.dtype)
    # Eq. 7, the acoustic weights negative: u^T k u then holds all three sums of Eq. 8.
    tiny = torch.finfo(z_ND.dtype).tiny
    u_NC = torch.cat([s_VC / count_v_C.clamp_min(tiny), -t_AC / count_a_C.clamp_min(tiny)])
    u_NC = u_NC * common_C
    return (u_NC * (k_NN @ u_NC)).sum() / common_C.sum().clamp_min(1)


def _kernel(z_ND: Tensor, kernel: Kernel) -> Tensor:
    """k(z_m, z_n) for all pairs of samples: (N, N)."""
    n = z_ND.shape[0]
    # Distances stay the same when all samples move together; about their mean the Gram form loses
    # far fewer digits to cancellation.
    z_ND = z_ND - z_ND.detach().mean(0)
    square_N = (z_ND * z_ND).sum(1)
    d2_NN = (square_N[:, None] + square_N[None, :] - 2 * (z_ND @ z_ND.T)).clamp_min(0)
    d2_NN = d2_NN.masked_fill(torch.eye(n, dtype=torch.bool, device=z_ND.device), 0)

    base: Tensor | float
    if kernel.bandwidth is None:
        # The mean over the n^2 - n distinct pairs, by way of the distances from the mean. The
        # floor keeps samples that all coincide from dividing by zero.
        base = 2 * square_N.detach().sum() / (n - 1)
        base = base.clamp_min(torch.finfo(z_ND.dtype).tiny ** 0.5)
    else:
        base = kernel.bandwidth
    b_K = base * kernel.scale * kernel.powers
    return torch.exp(-d2_NN / b_K[:, None, None]).sum(0)


def _one_hot(y_N: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    if y_N.ndim == 2:
        return y_N.to(dtype)
    return (y_N[:, None] == torch.arange(classes, device=y_N.device)).to(dtype)
