"""One training run (paper, Eq. 9 and section 3.2), from the first step to the last.

Whatever is outside, a search or a tracker, enters through `report`, once an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fdan import device as runtime
from fdan.errors import ConfigError, FdanError
from fdan.model.backbones import build_backbone
from fdan.model.network import MODALITIES, Bank, Head, Network, fdan_loss
from fdan.run_config import RunConfig, TrainConfig
from fdan.training import batches
from fdan.training import validate as evaluate
from fdan.training.augment import augment
from fdan.training.batches import Ints
from fdan.training.checkpoint import Checkpoint
from fdan.training.cuda_graph import Function, make_graphed, side_stream
from fdan.training.training_data import TrainingData
from fdan.training.validate import Scores

_BACKBONE_RATE: Final = 0.1
# What each column of an epoch's losses holds.
_TERMS: Final = ("loss", "acoustic loss", "visual loss", "LMMD")


class Diverged(FdanError):  # noqa: N818
    """A loss that is infinite or not a number."""


@dataclass(frozen=True)
class EpochReport:
    """metrics: train/loss, train/loss_acoustic, train/loss_visual, train/lmmd (means over the
    epoch's steps; the LMMD summed over layers, before alpha), train/lr (the head's, at the epoch's
    last step), validation/uar, /war, /wf1, /loss, value (validation UAR averaged over the last
    five epochs), time/epoch_s (seconds). confusion: (7, 7) counts on the validation part."""

    epoch: int
    metrics: dict[str, float]
    confusion: Ints


Report = Callable[[EpochReport, Callable[[], Checkpoint]], None]
"""Told after each epoch, and handed what makes its checkpoint, until it returns: copying all
weights takes a tenth of a short epoch, and not every epoch's are kept."""


def train(
    run: RunConfig,
    data: TrainingData,
    report: Report,
    *,
    device: str | torch.device = "cpu",
    resume: Checkpoint | None = None,
) -> Checkpoint:
    """Train for run.training.epochs epochs and return the last one's checkpoint.

    `report(EpochReport, checkpoint)` is called after each epoch; what it raises ends the run.
    With `resume` the run goes on after that checkpoint's epoch, on the CPU to the last bit as if
    it had not stopped (with the same number of threads); it may have more epochs than before but
    no other settings or data (ConfigError). Raises Diverged, DeviceError, WeightsError.
    """
    where = runtime.choose_device(device)
    data = data.to(where)
    data.check_fits(run.model)
    if resume is not None:
        check_same_run(run, data, resume)
    with runtime.repeatable(where), side_stream(where):
        return _train(run, data, report, where, resume)


def _train(
    run: RunConfig,
    data: TrainingData,
    report: Report,
    device: torch.device,
    resume: Checkpoint | None,
) -> Checkpoint:
    network = (build_network(run, data) if resume is None else evaluate.restore_network(resume)).to(
        device
    )
    optimizer = _optimizer(network, run.training, device, resume)
    one_step = make_graphed(make_step(network, optimizer, run, data, device), device)
    epoch, step, history = 0, 0, tuple[float, ...]()
    if resume is not None:
        epoch, step, history = resume.epoch, resume.step, resume.history
    last = resume

    def make_checkpoint(bare: Checkpoint, bank: Bank | None) -> Checkpoint:
        assert bare.step == step, "too late: the weights are those of another epoch"
        return replace(bare, tensors=_snapshot(network, optimizer, bank))

    while epoch < run.training.epochs:
        epoch += 1
        began = time.perf_counter()
        network.train()
        losses = _epoch(one_step, optimizer, run, data, device, epoch, step)
        step += len(losses)
        check_finite(losses, epoch)

        network.eval()
        bank = evaluate.make_bank(network, run, data)
        found = evaluate.predict_logits(network, data.acoustic, data.acoustic_validation, bank)
        scores = evaluate.score_logits(found, data.acoustic.labels[data.acoustic_validation])
        check_finite_validation(scores, epoch)
        history += (scores.uar,)
        bare = bare_checkpoint(run, data, epoch, step, history)
        rate = learning_rate(run.training.lr, step - 1)
        seconds = time.perf_counter() - began
        told = make_epoch_report(epoch, losses, rate, scores, bare.value, seconds)
        report(told, partial(make_checkpoint, bare, bank))
        if epoch == run.training.epochs:
            last = make_checkpoint(bare, bank)
    assert last is not None
    return last


def learning_rate(lr: float, step: int) -> float:
    """Of step `step`, counted from 0: the schedule of the authors' released code."""
    return float(lr * (1 + 0.0003 * step) ** -0.75)


def _epoch(
    one_step: Function,
    optimizer: runtime.SGD,
    run: RunConfig,
    data: TrainingData,
    device: torch.device,
    epoch: int,
    step: int,
) -> Tensor:
    """One pass over the acoustic training part. Returns each step's losses, (steps, 4), on the CPU;
    nothing waits for the device before the epoch's end."""
    training = run.training
    plan = batches.plan_epoch(
        data.visual_train, data.acoustic_train, training.batch, training.seed, epoch
    )
    columns = []
    for modality in MODALITIES:
        index, draws = getattr(plan, modality), getattr(plan, f"{modality}_draws")
        labels = data.domain(modality).labels[index]
        size = getattr(plan, f"{modality}_sizes")
        own = (torch.from_numpy(array).to(device) for array in (index, labels, draws))
        columns += [torch.split(tensor, size) for tensor in own]

    losses = torch.zeros((len(plan.acoustic_sizes), 4), device=device)
    for number, batch in enumerate(zip(*columns, strict=True)):
        for group in optimizer.param_groups:
            runtime.set_rate(group, learning_rate(group["initial_lr"], step + number))
        losses[number] = one_step(*batch)
    return losses.cpu()


def make_step(
    network: Network,
    optimizer: runtime.SGD,
    run: RunConfig,
    data: TrainingData,
    device: torch.device,
) -> Function:
    """A step of SGD: from each modality's sample numbers, labels and augmentation's draws, visual
    ones first, to its losses, (4,)."""
    alpha, kernel = run.training.alpha, run.kernel
    augmenting = run.training.augment and run.model.tuning == "full"

    def one_step(
        index_V: Tensor, y_V: Tensor, draws_V: Tensor, index_A: Tensor, y_A: Tensor, draws_A: Tensor
    ) -> Tensor:
        visual, acoustic = data.visual.take(index_V), data.acoustic.take(index_A)
        if augmenting:
            visual = augment("visual", visual, draws_V)
            acoustic = augment("acoustic", acoustic, draws_A)
        with runtime.half_precision(device):
            x_VF = network.features("visual", visual)
            x_AF = network.features("acoustic", acoustic)
        out = network.head(x_VF.float(), x_AF.float())
        loss = fdan_loss(out, y_V, y_A, alpha, kernel)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return torch.stack(loss).detach()

    return one_step


def build_network(run: RunConfig, data: TrainingData) -> Network:
    """A network before its first step, on the CPU."""
    with runtime.seeded(runtime.seed_for(run.training.seed, batches.INITIAL_WEIGHTS)):
        head = Head(run.model)
    if run.model.tuning == "full":
        return Network(head, {m: build_backbone(data.weights) for m in MODALITIES})
    for modality in MODALITIES:
        head.fit(modality, data.domain(modality).select(data.train_samples(modality)).cpu())
    return Network(head)


def _optimizer(
    network: Network, training: TrainConfig, device: torch.device, resume: Checkpoint | None
) -> runtime.SGD:
    head = list(network.head.parameters())
    backbones = list(network.backbones.parameters())
    groups = [{"params": head, "initial_lr": training.lr}]
    if backbones:
        groups.append({"params": backbones, "initial_lr": training.lr * _BACKBONE_RATE})
    optimizer = runtime.SGD(groups, training.momentum, training.decay, device)
    if resume is not None:
        held = resume.group("momentum")
        for name, parameter in network.named_parameters():
            if name in held:
                # In the parameter's memory layout, which the one kernel for all wants alike.
                state = torch.empty_like(parameter, requires_grad=False).copy_(held[name])
                optimizer.momenta[parameter] = state
    return optimizer


def bare_checkpoint(
    run: RunConfig, data: TrainingData, epoch: int, step: int, history: tuple[float, ...]
) -> Checkpoint:
    """An epoch's, all of it but the tensors."""
    return Checkpoint(
        run=run,
        epoch=epoch,
        step=step,
        history=history,
        backbone_sha256=data.weights.sha256,
        data=data.fingerprint,
        tensors={},
    )


def _snapshot(network: Network, optimizer: runtime.SGD, bank: Bank | None) -> dict[str, Tensor]:
    """Copies on the CPU, which the next epoch leaves alone."""
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        if parameter in optimizer.momenta:
            tensors[f"momentum.{name}"] = optimizer.momenta[parameter]
    tensors |= {f"bank.{i}": z for i, z in enumerate(bank or ())}
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def make_epoch_report(
    epoch: int, losses: Tensor, rate: float, scores: Scores, value: float, seconds: float
) -> EpochReport:
    """Of each step's losses, (steps, 4), and what the epoch came to."""
    total, acoustic, visual, discrepancy = losses.mean(0).tolist()
    metrics = {
        "train/loss": total,
        "train/loss_acoustic": acoustic,
        "train/loss_visual": visual,
        "train/lmmd": discrepancy,
        "train/lr": rate,
        "validation/uar": scores.uar,
        "validation/war": scores.war,
        "validation/wf1": scores.wf1,
        "validation/loss": scores.loss,
        "value": value,
        "time/epoch_s": seconds,
    }
    return EpochReport(epoch, metrics, scores.confusion)


def check_finite(losses: Tensor, epoch: int) -> None:
    """Diverged if one of the steps' losses, (steps, 4), is not."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        number, term = bad[0].tolist()
        raise Diverged(
            f"the {_TERMS[term]} is {float(losses[number, term])} at step {number + 1} of"
            f" {len(losses)} in epoch {epoch}: a smaller lr, momentum or alpha may help"
        )


def check_finite_validation(scores: Scores, epoch: int) -> None:
    """Diverged if the validation loss is not."""
    if not np.isfinite(scores.loss):
        raise Diverged(f"the validation loss is {scores.loss} after epoch {epoch}")


def check_same_run(run: RunConfig, data: TrainingData, resume: Checkpoint) -> None:
    """A run goes on only as what it was (ConfigError)."""
    before, now = resume.run.as_dict(), run.as_dict()
    other = [name for name in now if name != "epochs" and before.get(name) != now[name]]
    if other:
        name = other[0]
        raise ConfigError(
            f"the checkpoint to go on from has {name} = {before[name]}, this run has {now[name]}"
        )
    if (resume.data, resume.backbone_sha256) != (data.fingerprint, data.weights.sha256):
        raise ConfigError("the checkpoint to go on from was trained on other data or weights")
