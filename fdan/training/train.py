"""One training run (paper, Eq. 9 and section 3.2), from the first step to the last.

A caller such as a search or a tracker enters through `report`, once an epoch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fdan.device import choose_device, half_precision, repeatable, seed_for, seeded
from fdan.emotions import MODALITIES
from fdan.errors import ConfigError, FdanError
from fdan.metrics import Ints
from fdan.model.backbones import build_backbone
from fdan.model.network import Bank, Head, Network, fdan_loss
from fdan.run_config import RunConfig, TrainConfig
from fdan.training import batches
from fdan.training.augment import augment
from fdan.training.checkpoint import Checkpoint
from fdan.training.cuda_graph import Function, make_graphed, side_stream
from fdan.training.training_data import TrainingData
from fdan.training.validate import make_bank, predict_logits, restore_network, score_logits

_BACKBONE_RATE: Final = 0.1
# The columns of an epoch's losses.
_TERMS: Final = ("loss", "acoustic loss", "visual loss", "LMMD")


class Diverged(FdanError):  # noqa: N818
    """A loss is infinite or not a number."""


@dataclass(frozen=True)
class EpochReport:
    """Result of one epoch."""

    epoch: int
    metrics: dict[str, float]
    """train/loss, train/loss_acoustic, train/loss_visual, train/lmmd (means over the epoch's steps;
    the LMMD summed over layers, before alpha), train/lr (the head's, at the last step),
    validation/uar, /war, /wf1, /loss, value (objective_value), time/epoch_s (seconds)."""
    confusion: Ints  # (7, 7) counts on the validation part, rows true


Report = Callable[[EpochReport, Callable[[], Checkpoint]], None]
"""Called after each epoch with its report and a function that makes its checkpoint. The function
works until `report` returns: copying all weights takes a tenth of a short epoch, and not every
epoch's are wanted."""


class RunProgress:
    """Progress of a run. `now` is the last epoch's checkpoint, without tensors."""

    def __init__(self, run: RunConfig, data: TrainingData, resume: Checkpoint | None) -> None:
        """ConfigError if `resume` has other settings, but for the number of epochs, or was trained
        on other data or weights."""
        self.run, self.data, self.resume = run, data, resume
        data.check_fits(run.model)
        self.now = Checkpoint(run, 0, 0, (), data.weights.sha256, data.fingerprint, {})
        if resume is None:
            return
        before = resume.run.as_dict()
        for name, value in run.as_dict().items():
            if name != "epochs" and before.get(name) != value:
                raise ConfigError(
                    f"the checkpoint to go on from has {name} = {before[name]}, this run has"
                    f" {value}"
                )
        goes_on = replace(resume, run=run, tensors={})
        if replace(goes_on, epoch=0, step=0, history=()) != self.now:
            raise ConfigError("the checkpoint to go on from was trained on other data or weights")
        self.now = goes_on

    def start_network(self) -> tuple[Network, dict[str, Tensor]]:
        """Network and momenta before the first step, or of the checkpoint, on the CPU."""
        run, data = self.run, self.data
        if self.resume is not None:
            return restore_network(self.resume), self.resume.tensors_under("momentum")
        with seeded(seed_for(run.training.seed, batches.INITIAL_WEIGHTS)):
            head = Head(run.model)
        if run.model.tuning == "full":
            return Network(head, {m: build_backbone(data.weights) for m in MODALITIES}), {}
        for modality in MODALITIES:
            head.fit(modality, data.domain(modality).select(data.train_samples(modality)).cpu())
        return Network(head), {}

    def finish_epoch(self, losses: Tensor, logits: Tensor, seconds: float) -> EpochReport:
        """Count one more epoch and score it. Diverged: a step's loss or the validation loss is not
        finite.

        Args:
            losses: Losses of each step, (steps, 4), in the order of _TERMS, on the CPU.
            logits: Logits of the acoustic validation part, (A, C), on the CPU.
            seconds: Duration of the epoch.
        """
        epoch, step = self.now.epoch + 1, self.now.step + len(losses)
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            number, term = bad[0].tolist()
            raise Diverged(
                f"the {_TERMS[term]} is {float(losses[number, term])} at step {number + 1} of"
                f" {len(losses)} in epoch {epoch}: a smaller lr, momentum or alpha may help"
            )
        scores = score_logits(logits, self.data.acoustic.labels[self.data.acoustic_validation])
        if not np.isfinite(scores.loss):
            raise Diverged(f"the validation loss is {scores.loss} after epoch {epoch}")
        history = (*self.now.history, scores.uar)
        self.now = replace(self.now, epoch=epoch, step=step, history=history)
        total, acoustic, visual, discrepancy = losses.mean(0).tolist()
        metrics = {
            "train/loss": total,
            "train/loss_acoustic": acoustic,
            "train/loss_visual": visual,
            "train/lmmd": discrepancy,
            "train/lr": self.run.training.lr * learning_rate_factor(step - 1),
            "validation/uar": scores.uar,
            "validation/war": scores.war,
            "validation/wf1": scores.wf1,
            "validation/loss": scores.loss,
            "value": self.now.value,
            "time/epoch_s": seconds,
        }
        return EpochReport(epoch, metrics, scores.confusion)


def train(
    run: RunConfig,
    data: TrainingData,
    report: Report,
    *,
    device: str | torch.device = "cpu",
    resume: Checkpoint | None = None,
) -> Checkpoint:
    """Train for `run.training.epochs` epochs; returns the last one's checkpoint.

    Args:
        run: All settings.
        data: Data loaded for this kind of run.
        report: Callback after each epoch; what it raises ends the run.
        device: Device name: cpu, cuda ... or auto.
        resume: Checkpoint after which the run goes on, on the CPU to the last bit as if it
            had not stopped (with the same number of threads). It may have more epochs than before,
            but no other settings or data.

    Raises:
        ConfigError: `resume` is of another run. DeviceError, WeightsError: they do not serve.
        Diverged: A loss is not finite.
    """
    where = choose_device(device)
    progress = RunProgress(run, data.to(where), resume)
    if resume is not None and resume.epoch >= run.training.epochs:
        return resume
    with repeatable(where), side_stream(where):
        return _Trainer(progress, where).train(report)


class _Trainer:
    def __init__(self, progress: RunProgress, device: torch.device) -> None:
        run, data = progress.run, progress.data
        self.progress, self.data, self.device = progress, data, device
        network, momenta = progress.start_network()
        self.network = network.to(device)
        self.optimizer = _make_optimizer(self.network, run.training, device, momenta)
        self.step = make_graphed(_make_step(self.network, self.optimizer, run, data), device)

    def train(self, report: Report) -> Checkpoint:
        data, progress = self.data, self.progress
        while True:
            began = time.perf_counter()
            self.network.train()
            losses = self._epoch()
            self.network.eval()
            bank = make_bank(self.network, progress.run, data)
            logits = predict_logits(self.network, data.acoustic, data.acoustic_validation, bank)
            seconds = time.perf_counter() - began
            epoch = progress.finish_epoch(losses, logits, seconds)
            make_checkpoint = partial(self._with_tensors, progress.now, bank)
            report(epoch, make_checkpoint)
            if epoch.epoch == progress.run.training.epochs:
                return make_checkpoint()

    def _epoch(self) -> Tensor:
        """One pass over the acoustic training part. Returns each step's losses, (steps, 4), on the
        CPU; nothing waits for the device before the epoch's end."""
        run, now = self.progress.run, self.progress.now
        plan = batches.plan_epoch(self.data, run.training, now.epoch + 1)
        columns = []
        for modality in MODALITIES:
            samples, sizes, draws = plan[modality]
            labels = self.data.domain(modality).labels[samples]
            own = (torch.from_numpy(array).to(self.device) for array in (samples, labels, draws))
            columns += [torch.split(tensor, sizes) for tensor in own]

        losses = torch.zeros((len(plan["acoustic"].sizes), 4), device=self.device)
        for number, batch in enumerate(zip(*columns, strict=True)):
            _set_learning_rate(self.optimizer, now.step + number)
            losses[number] = self.step(*batch)
        return losses.cpu()

    def _with_tensors(self, checkpoint: Checkpoint, bank: Bank | None) -> Checkpoint:
        """Copies on the CPU, which the next epoch leaves alone."""
        same = checkpoint is self.progress.now
        assert same, "too late: the weights are those of another epoch"
        tensors = {f"model.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            if parameter in self.optimizer.state:
                tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"]
        tensors |= {f"bank.{i}": z_MD for i, z_MD in enumerate(bank or ())}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return replace(checkpoint, tensors=copies)


def _make_optimizer(
    network: Network, training: TrainConfig, device: torch.device, momenta: Mapping[str, Tensor]
) -> torch.optim.SGD:
    """On a GPU one kernel for all parameters reads the learning rate from a tensor there, so that a
    recorded step sees each new one."""
    fused = device.type == "cuda"
    groups = []
    for part, factor in ((network.head, 1.0), (network.backbones, _BACKBONE_RATE)):
        if parameters := list(part.parameters()):
            rate = training.lr * factor
            lr = torch.tensor(rate).to(device) if fused else rate
            groups.append({"params": parameters, "initial_lr": rate, "lr": lr})
    optimizer = torch.optim.SGD(
        groups,
        momentum=training.momentum,
        weight_decay=training.decay,
        foreach=not fused,
        fused=fused,
    )
    for name, parameter in network.named_parameters():
        if name in momenta:
            # In the parameter's memory layout, which the fused kernel wants all tensors to have.
            momentum = torch.empty_like(parameter, requires_grad=False).copy_(momenta[name])
            optimizer.state[parameter] = {"momentum_buffer": momentum}
    return optimizer


def _set_learning_rate(optimizer: torch.optim.SGD, step: int) -> None:
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * learning_rate_factor(step)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate_factor(step: int) -> float:
    """Factor of the learning rate at `step`, from 0: the schedule of the authors' released code."""
    return float((1 + 0.0003 * step) ** -0.75)


def _make_step(
    network: Network, optimizer: torch.optim.SGD, run: RunConfig, data: TrainingData
) -> Function:
    """A step of SGD: from each modality's sample numbers, labels and augmentation's draws, visual
    ones first, to the four losses, (4,)."""
    alpha, kernel = run.training.alpha, run.kernel
    augmenting = run.training.augment and run.model.tuning == "full"
    device = data.acoustic.device

    def step(
        index_V: Tensor, y_V: Tensor, draws_V: Tensor, index_A: Tensor, y_A: Tensor, draws_A: Tensor
    ) -> Tensor:
        visual, acoustic = data.visual.take(index_V), data.acoustic.take(index_A)
        if augmenting:
            visual = augment("visual", visual, draws_V)
            acoustic = augment("acoustic", acoustic, draws_A)
        with half_precision(device):
            x_VF = network.features("visual", visual)
            x_AF = network.features("acoustic", acoustic)
        out = network.head(x_VF.float(), x_AF.float())
        loss = fdan_loss(out, y_V, y_A, alpha, kernel)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return torch.stack(loss).detach()

    return step
