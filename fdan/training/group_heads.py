"""The heads of several runs as one: every parameter has a first axis of runs, and a step or an
answer is one batched product for all. What is computed for a run is what model/network.py computes,
by way of vmap.

Shapes: R runs; V, A, F, D, C as in model/network.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pad_sequence

from fdan.model.local_mmd import Kernel
from fdan.model.network import Bank, Head, Network, fdan_loss
from fdan.run_config import RunConfig

Tensors = dict[str, Tensor]


class StackedHeads:
    """Heads of runs that share one ModelConfig and whose kernels all have a bandwidth, or none.

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
        with torch.device("meta"):  # each call brings the weights
            self._network = Network.from_config(runs[0].model)
        self._smoothing = runs[0].training.smoothing
        self._has_momentum = [run.training.momentum > 0 for run in runs]
        self._parameters = _stack([dict(n.named_parameters()) for n in networks], device)
        self._buffers = _stack([dict(n.named_buffers()) for n in networks], device)
        self._momenta = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        for name, momentum_R in self._momenta.items():
            for row, momentum in enumerate(momenta):
                if name in momentum:
                    momentum_R[row] = momentum[name]
        self._constants = {k: tensor.to(device) for k, tensor in _constants(runs).items()}

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these runs, in this order."""
        self._has_momentum = [self._has_momentum[row] for row in rows]
        for tensors in (self._parameters, self._buffers, self._momenta, self._constants):
            for name, tensor_R in tensors.items():
                tensors[name] = tensor_R[list(rows)]

    def step(
        self, x_RVF: Tensor, x_RAF: Tensor, y_RV: Tensor, y_RA: Tensor, rate_R: Tensor
    ) -> Tensor:
        """One step of each run; returns the losses before it, (R, 4).

        Args:
            x_RVF: Faces' features.
            x_RAF: Speech's features.
            y_RV: Faces' classes.
            y_RA: Speech's classes.
            rate_R: Learning rates.
        """
        with torch.no_grad():
            gradients, losses_R4 = vmap(grad(self._loss, has_aux=True))(
                self._parameters, self._buffers, self._constants, (x_RVF, x_RAF, y_RV, y_RA)
            )
            momentum_R, decay_R = self._constants["momentum"], self._constants["decay"]
            # As torch.optim.SGD does it, whose first step is one from a momentum of 0.
            for name, p in self._parameters.items():
                m = self._momenta[name]
                m.mul_(_expand(momentum_R, p)).add_(gradients[name])
                m.addcmul_(p, _expand(decay_R, p))
                p.addcmul_(m, _expand(rate_R, p), value=-1)
        losses: Tensor = losses_R4
        return losses

    def build_bank(self, x_RVF: Tensor, x_RAF: Tensor) -> Bank:
        """Head.build_bank of each run: (R, V, D) a layer.

        Args:
            x_RVF: Faces' features.
            x_RAF: Speech's features.
        """
        bank: Bank = self._call("build_bank", (0, 0), x_RVF, x_RAF)
        return bank

    def predict(self, x_AF: Tensor, bank: Bank | None) -> Tensor:
        """Head.predict of each run: (R, A, C).

        Args:
            x_AF: Features of the same speech for all, or of each run's own, (R, A, F).
            bank: Bank of build_bank; None passes attention by.
        """
        axes = (0 if x_AF.ndim == 3 else None, None if bank is None else 0)
        logits: Tensor = self._call("predict", axes, x_AF, bank)
        return logits

    def checkpoint_tensors(self, row: int) -> Tensors:
        """model.* and momentum.* of a run's checkpoint: copies on the CPU."""
        named = {f"model.{k}": t_R for k, t_R in (self._parameters | self._buffers).items()}
        if self._has_momentum[row]:  # else torch.optim.SGD keeps none
            named |= {f"momentum.{name}": m_R for name, m_R in self._momenta.items()}
        return {name: t_R[row].to("cpu", copy=True) for name, t_R in named.items()}

    def _call(self, method: str, axes: tuple[int | None, ...], *inputs: object) -> Any:
        """Call a method of each run's head. An input's axis of runs is 0; None if all share it."""
        module = _Method(self._network.head, method)

        def one_run(parameters: Tensors, buffers: Tensors, *own: object) -> object:
            return functional_call(module, (parameters, buffers), own)

        with torch.no_grad():
            return vmap(one_run, (0, 0, *axes))(self._parameters, self._buffers, *inputs)

    def _loss(
        self,
        parameters: Tensors,
        buffers: Tensors,
        constants: Tensors,
        batch: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The loss that one run minimises, and the four terms."""
        x_VF, x_AF, y_V, y_A = batch
        out = functional_call(self._network, (parameters, buffers), (x_VF, x_AF))
        kernel = Kernel(constants.get("bandwidth"), constants["scale"], constants["powers"])
        loss = fdan_loss(out, y_V, y_A, constants["alpha"], kernel, self._smoothing)
        return loss.total, torch.stack(loss)


class _Method(nn.Module):
    """A method of a head as a module's forward: functional_call knows no other."""

    def __init__(self, head: Head, name: str) -> None:
        super().__init__()
        self.head = head
        self._name = name

    def forward(self, *inputs: object) -> object:
        return getattr(self.head, self._name)(*inputs)


def _stack(runs: Sequence[Tensors], device: torch.device) -> Tensors:
    return {
        name: torch.stack([tensors[name].detach() for tensors in runs]).to(device)
        for name in runs[0]
    }


def _constants(runs: Sequence[RunConfig]) -> Tensors:
    """Values that differ between runs, (R,) each; the kernels' powers are (R, most Gaussians)."""
    constants = {
        name: torch.tensor([getattr(run.training, name) for run in runs])
        for name in ("alpha", "momentum", "decay")
    }
    kernels = [Kernel.from_config(run.kernel, constants["alpha"]) for run in runs]
    constants["scale"] = torch.tensor([kernel.scale for kernel in kernels])
    constants["powers"] = pad_sequence([kernel.powers for kernel in kernels], True, torch.inf)
    if kernels[0].bandwidth is not None:
        constants["bandwidth"] = torch.tensor([kernel.bandwidth for kernel in kernels])
    return constants


def _expand(value_R: Tensor, like: Tensor) -> Tensor:
    """A number of each run, to be multiplied with what it has of `like`."""
    return value_R.view(-1, *[1] * (like.ndim - 1))
