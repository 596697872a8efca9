"""The running average of a run's weights (Polyak and Juditsky 1992): one epoch's validation score
jumps less with it, and it is what is tested and kept."""

import copy
from typing import Final

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fdan.model.network import Network

_RAMP: Final = 10.0
"""The average forgets its first weights sooner: its decay is at most (1 + step) / (10 + step)."""


class WeightAverage:
    """The average of a network's weights and floating-point buffers."""

    def __init__(self, network: Network, decay: float) -> None:
        """decay: of the average, a step."""
        self.network: Network = copy.deepcopy(network).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Take a step's weights in.

        Args:
            network: The network that is trained.
            step: Step of the run, from 0.
        """
        decay = min(self._decay, (1 + step) / (_RAMP + step))
        averaged, current = _weights(self.network), _weights(network)
        get_ema_multi_avg_fn(decay)(averaged, current, step)  # type: ignore[no-untyped-call]
        for mine, its in zip(self.network.buffers(), network.buffers(), strict=True):
            if not mine.is_floating_point():
                mine.copy_(its)


def _weights(network: Network) -> list[Tensor]:
    tensors = [*network.parameters(), *network.buffers()]
    return [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
