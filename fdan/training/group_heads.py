"""The heads of several runs as one: every parameter has a first axis of runs, and a step or an
answer is one batched product for all. What is computed of a run is model.py's, by way of vmap.

Shapes: R runs; V, A, F, D, C as in model.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pad_sequence

from fdan import device as runtime
from fdan.model.lmmd import Kernel
from fdan.model.network import Bank, Head, Network, fdan_loss
from fdan.run_config import RunConfig
from fdan.training.validate import build

Tensors = dict[str, Tensor]


class StackedHeads:
    """Of runs whose ModelConfig is one and whose kernels have a bandwidth, all or none.

    Nothing here waits for the device, and no shape depends on what the numbers are. A run whose
    numbers are no longer finite leaves the others alone.
    """

    def __init__(
        self,
        runs: Sequence[RunConfig],
        networks: Sequence[Network],
        momenta: Sequence[Tensors],
        device: torch.device,
    ) -> None:
        """momenta: each run's so far by parameter; one that is missing is 0."""
        with runtime.shapes_only():
            self._network = build(runs[0])
        self._moved = [run.training.momentum > 0 for run in runs]
        self._parameters = _stacked([dict(n.named_parameters()) for n in networks], device)
        self._buffers = _stacked([dict(n.named_buffers()) for n in networks], device)
        self._momenta = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        for name, momentum_R in self._momenta.items():
            for row, held in enumerate(momenta):
                if name in held:
                    momentum_R[row] = held[name]
        self._constants = {k: tensor.to(device) for k, tensor in _constants(runs).items()}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these runs, in this order."""
        self._moved = [self._moved[row] for row in rows]
        for held in (self._parameters, self._buffers, self._momenta, self._constants):
            for name, tensor_R in held.items():
                held[name] = tensor_R[list(rows)]

    def step(
        self, x_RVF: Tensor, x_RAF: Tensor, y_RV: Tensor, y_RA: Tensor, rate_R: Tensor
    ) -> Tensor:
        """One step of each run at its own learning rate. Its losses before that, (R, 4)."""
        with torch.no_grad():
            gradients, losses_R4 = vmap(grad(self._loss, has_aux=True))(
                self._parameters, self._buffers, self._constants, x_RVF, x_RAF, y_RV, y_RA
            )
            momentum_R, decay_R = self._constants["momentum"], self._constants["decay"]
            # As torch's SGD has it; its first step is one from a momentum of 0.
            for name, p in self._parameters.items():
                m = self._momenta[name]
                m.mul_(_of_each(momentum_R, p)).add_(gradients[name])
                m.addcmul_(p, _of_each(decay_R, p))
                p.addcmul_(m, _of_each(rate_R, p), value=-1)
        found: Tensor = losses_R4
        return found

    def build_bank(self, x_RVF: Tensor, x_RAF: Tensor) -> Bank:
        """Head.build_bank of each run: (R, V, D) a layer."""
        call = _Method(self._network.head, "build_bank")

        def one(parameters: Tensors, buffers: Tensors, x_VF: Tensor, x_AF: Tensor) -> Any:
            return functional_call(call, (parameters, buffers), (x_VF, x_AF))

        with torch.no_grad():
            found: Bank = vmap(one)(self._parameters, self._buffers, x_RVF, x_RAF)
        return found

    def predict(self, x_AF: Tensor, bank: Bank | None) -> Tensor:
        """Head.predict of each run, all of the same speech: (R, A, C)."""
        call = _Method(self._network.head, "predict")

        def one(parameters: Tensors, buffers: Tensors, *of_one: Tensor) -> Any:
            heard = None if bank is None else of_one
            return functional_call(call, (parameters, buffers), (x_AF, heard))

        with torch.no_grad():
            found: Tensor = vmap(one)(self._parameters, self._buffers, *(bank or ()))
        return found

    def tensors(self, row: int) -> Tensors:
        """model.* and momentum.* of a run's checkpoint: copies on the CPU."""
        named = {f"model.{k}": t_R for k, t_R in (self._parameters | self._buffers).items()}
        if self._moved[row]:  # else torch's SGD keeps none
            named |= {f"momentum.{name}": m_R for name, m_R in self._momenta.items()}
        return {name: t_R[row].to("cpu", copy=True) for name, t_R in named.items()}

    def _loss(
        self,
        parameters: Tensors,
        buffers: Tensors,
        constants: Tensors,
        x_VF: Tensor,
        x_AF: Tensor,
        y_V: Tensor,
        y_A: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What one run minimises, and the four terms."""
        out = functional_call(self._network, (parameters, buffers), (x_VF, x_AF))
        kernel = Kernel(constants.get("bandwidth"), constants["scale"], constants["powers"])
        loss = fdan_loss(out, y_V, y_A, constants["alpha"], kernel)
        return loss.total, torch.stack(loss)


class _Method(nn.Module):
    """A method of a head as a module's forward: functional_call knows no other."""

    def __init__(self, head: Head, name: str) -> None:
        super().__init__()
        self.head = head
        self._name = name

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.head, self._name)(*inputs)


def _stacked(each: Sequence[Tensors], device: torch.device) -> Tensors:
    return {name: torch.stack([one[name].detach() for one in each]).to(device) for name in each[0]}


def _constants(runs: Sequence[RunConfig]) -> Tensors:
    """What may differ from run to run, (R,) each; the kernels' powers are (R, most Gaussians)."""
    found = {
        name: torch.tensor([getattr(run.training, name) for run in runs])
        for name in ("alpha", "momentum", "decay")
    }
    kernels = [Kernel.from_config(run.kernel, found["alpha"]) for run in runs]
    found["scale"] = torch.tensor([kernel.scale for kernel in kernels])
    found["powers"] = pad_sequence([kernel.powers for kernel in kernels], True, torch.inf)
    if kernels[0].bandwidth is not None:
        found["bandwidth"] = torch.tensor([kernel.bandwidth for kernel in kernels])
    return found


def _of_each(value_R: Tensor, like: Tensor) -> Tensor:
    """A number of each run, to be multiplied with what it has of `like`."""
    return value_R.view(-1, *[1] * (like.ndim - 1))
