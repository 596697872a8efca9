"""The optimizer of a run and its learning rate: from settings, and to and from a checkpoint."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from fdan.model.network import Network
from fdan.run_config import TrainConfig

_STATE: Final = {
    "sgd": {"momentum_buffer": "momentum"},
    "adamw": {"exp_avg": "momentum", "exp_avg_sq": "variance"},
}
"""What an optimizer keeps of each parameter, and what a checkpoint calls it."""

STATE_NAMES: Final = ("momentum", "variance")

_WARM_UP: Final = 0.1  # of the steps of one cycle


def learning_rate_factor(training: TrainConfig, step: int, steps: int) -> float:
    """Factor of the learning rate at a step.

    `authors` is the schedule of the authors' released code. `one-cycle` rises linearly over a tenth
    of the run and falls by half a cosine (Smith and Topin 2019, with Loshchilov and Hutter's fall).

    Args:
        training: Settings with the schedule.
        step: Step of the run, from 0.
        steps: Steps of the whole run.
    """
    if training.schedule == "authors":
        return float((1 + 0.0003 * step) ** -0.75)
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def make_optimizer(
    network: Network, training: TrainConfig, step: int, state: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The optimizer of a network that is on its device. On a GPU one kernel for all parameters
    reads the learning rate from a tensor there, so that a recorded step sees each new one.

    Args:
        network: The network.
        training: Settings of the run.
        step: Steps so far.
        state: What a checkpoint holds of the optimizer: momentum.*, variance.*.
    """
    device = next(network.parameters()).device
    fused = device.type == "cuda"
    groups = []
    for part, factor in ((network.head, 1.0), (network.backbones, training.backbone_rate)):
        if parameters := list(part.parameters()):
            rate = training.lr * factor
            lr = torch.tensor(rate).to(device) if fused else rate
            groups.append({"params": parameters, "initial_lr": rate, "lr": lr})
    optimizer: torch.optim.Optimizer
    if training.optimizer == "adamw":
        optimizer = torch.optim.AdamW(
            groups,
            weight_decay=training.decay,
            foreach=not fused,
            fused=fused,
            capturable=fused,
        )
    else:
        optimizer = torch.optim.SGD(
            groups,
            momentum=training.momentum,
            weight_decay=training.decay,
            foreach=not fused,
            fused=fused,
        )
    for name, parameter in network.named_parameters():
        own = {
            key: _like(parameter, state[f"{kind}.{name}"])
            for key, kind in _STATE[training.optimizer].items()
            if f"{kind}.{name}" in state
        }
        if own and training.optimizer == "adamw":
            own["step"] = torch.tensor(float(step), device=device if fused else "cpu")
        if own:
            optimizer.state[parameter] = own
    return optimizer


def state_tensors(
    network: nn.Module, optimizer: torch.optim.Optimizer, training: TrainConfig
) -> dict[str, Tensor]:
    """momentum.* and variance.* of a checkpoint: what `make_optimizer` continues from.

    Args:
        network: The network whose parameters are optimised.
        optimizer: Its optimizer.
        training: Settings of the run.
    """
    return {
        f"{kind}.{name}": state[key]
        for name, parameter in network.named_parameters()
        if (state := optimizer.state.get(parameter))
        for key, kind in _STATE[training.optimizer].items()
        if state.get(key) is not None
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate.

    Args:
        optimizer: One of `make_optimizer`.
        factor: Learning rate in parts of the initial one.
    """
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _like(parameter: Tensor, stored: Tensor) -> Tensor:
    """A copy in the parameter's memory layout, which a fused kernel wants all tensors to have."""
    return torch.empty_like(parameter, requires_grad=False).copy_(stored)
