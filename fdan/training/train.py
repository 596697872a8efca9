"""One training run (paper, Eq. 9 and section 3.2), from the first step to the last.

A caller such as a search or a tracker enters through `report`, once an epoch.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fdan.device import choose_device, half_precision, repeatable, seed_for, seeded
from fdan.emotions import MODALITIES
from fdan.errors import ConfigError, FdanError
from fdan.machine.cuda_graph import Function, make_graphed, side_stream
from fdan.metrics import Ints
from fdan.model.backbones import LastStage, build_backbone
from fdan.model.network import CLASSES, Bank, Head, Network, fdan_loss, speech_loss
from fdan.run_config import RunConfig
from fdan.training import batches
from fdan.training.augment import augment, augment_maps, mix
from fdan.training.averaging import WeightAverage
from fdan.training.checkpoint import Checkpoint
from fdan.training.optimizer import (
    STATE_NAMES,
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
    state_tensors,
)
from fdan.training.training_data import TrainingData
from fdan.training.validate import make_bank, predict_logits, restore_network, score_logits

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
            may_change = name == "epochs" and run.training.schedule == "authors"
            if not may_change and before.get(name) != value:
                raise ConfigError(
                    f"the checkpoint to go on from has {name} = {before[name]}, this run has"
                    f" {value}"
                )
        goes_on = replace(resume, run=run, tensors={})
        if replace(goes_on, epoch=0, step=0, history=()) != self.now:
            raise ConfigError("the checkpoint to go on from was trained on other data or weights")
        self.now = goes_on

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        training = self.run.training
        each = len(batches.batch_sizes(len(self.data.acoustic_train), training.batch))
        return training.epochs * each

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the learning rate at a step, from 0."""
        return learning_rate_factor(self.run.training, step, self.steps)

    def start_network(self) -> tuple[Network, dict[str, Tensor]]:
        """Network before the first step, or of the checkpoint, on the CPU, with what the checkpoint
        holds of the optimizer, by its names there."""
        run, data, modalities = self.run, self.data, self.run.model.modalities
        if self.resume is not None:
            tensors = self.resume.tensors
            state = {k: z for k, z in tensors.items() if k.split(".")[0] in STATE_NAMES}
            return restore_network(self.resume, trained=True), state
        with seeded(seed_for(run.training.seed, batches.INITIAL_WEIGHTS)):
            head = Head(run.model)
        if run.model.tuning == "full":
            return Network(head, {m: build_backbone(data.weights) for m in modalities}), {}
        if run.model.tuning == "last":
            stages = {m: LastStage(build_backbone(data.weights)) for m in modalities}
            return Network(head, stages), {}
        for modality in modalities:
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
            "train/lr": self.run.training.lr * self.learning_rate_factor(step - 1),
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
        trainer = Trainer(progress, where)
        while True:
            epoch, make_checkpoint = trainer.train_epoch()
            report(epoch, make_checkpoint)
            if epoch.epoch == run.training.epochs:
                return make_checkpoint()


class Trainer:
    """A run that trains epoch by epoch, inside `repeatable` and `side_stream`."""

    def __init__(self, progress: RunProgress, device: torch.device) -> None:
        """Build the network, or restore it.

        Args:
            progress: The run, with its data on the device.
            device: The device.
        """
        run, data = progress.run, progress.data
        self.progress, self.data, self.device = progress, data, device
        network, state = progress.start_network()
        self.network = network.to(device)
        self.optimizer = make_optimizer(self.network, run.training, progress.now.step, state)
        self.average = self._start_average()
        self.step = make_graphed(_make_step(self.network, self.optimizer, run, data), device)

    def train_epoch(self) -> tuple[EpochReport, Callable[[], Checkpoint]]:
        """Train and score the next epoch. Returns its report, and a function that makes its
        checkpoint until the next epoch begins. Diverged: a loss is not finite."""
        data, progress = self.data, self.progress
        began = time.perf_counter()
        self.network.train()
        losses = self._pass()
        tested = (self.average or self).network.eval()
        bank = make_bank(tested, progress.run, data)
        logits = predict_logits(tested, data.acoustic, data.acoustic_validation, bank)
        epoch = progress.finish_epoch(losses, logits, time.perf_counter() - began)
        return epoch, partial(self._with_tensors, progress.now, bank)

    def _start_average(self) -> WeightAverage | None:
        resume, decay = self.progress.resume, self.progress.run.training.average
        if decay == 0:
            return None
        average = WeightAverage(self.network, decay)
        if resume is not None:
            average.network.load_state_dict(resume.tensors_under("model"))
        return average

    def _pass(self) -> Tensor:
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
        seed = seed_for(run.training.seed, batches.DROPOUT, now.epoch + 1)
        with seeded(seed, self.device) if run.model.dropout else nullcontext():
            for number, batch in enumerate(zip(*columns, strict=True)):
                step = now.step + number
                set_learning_rate(self.optimizer, self.progress.learning_rate_factor(step))
                losses[number] = self.step(*batch)
                if self.average is not None:
                    self.average.update(self.network, step)
        return losses.cpu()

    def _with_tensors(self, checkpoint: Checkpoint, bank: Bank | None) -> Checkpoint:
        """Copies on the CPU, which the next epoch leaves alone."""
        same = checkpoint is self.progress.now
        assert same, "too late: the weights are those of another epoch"
        tested, training = (self.average or self).network, checkpoint.run.training
        tensors = {f"model.{name}": tensor for name, tensor in tested.state_dict().items()}
        if self.average is not None:
            tensors |= {f"trained.{k}": tensor for k, tensor in self.network.state_dict().items()}
        tensors |= state_tensors(self.network, self.optimizer, training)
        tensors |= {f"bank.{i}": z_MD for i, z_MD in enumerate(bank or ())}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        return replace(checkpoint, tensors=copies)


def _make_step(
    network: Network, optimizer: torch.optim.Optimizer, run: RunConfig, data: TrainingData
) -> Function:
    """A step of the optimizer: from each modality's sample numbers, labels and augmentation's
    draws, visual ones first, to the four losses, (4,)."""
    alpha, kernel = run.training.alpha, run.kernel
    smoothing, mixing = run.training.smoothing, run.training.mixup > 0
    augmenting, tuning = run.training.augment, run.model.tuning
    device = data.acoustic.device
    modalities = run.model.modalities

    def features(modality: str, index: Tensor, y: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        inputs = data.domain(modality).take(index)
        if augmenting and tuning == "full":
            inputs = augment(modality, inputs, draws, run.training.speech_moves)
        elif augmenting and tuning == "last":
            inputs = augment_maps(modality, inputs, draws)
        if mixing:
            inputs, y = mix(inputs, y, draws[:, -1], CLASSES)
        with half_precision(device):
            x_NF = network.features(modality, inputs)
        return x_NF.float(), y

    def step(
        index_V: Tensor, y_V: Tensor, draws_V: Tensor, index_A: Tensor, y_A: Tensor, draws_A: Tensor
    ) -> Tensor:
        x_AF, targets_A = features("acoustic", index_A, y_A, draws_A)
        if len(modalities) == 1:
            loss = speech_loss(network.head, x_AF, targets_A, smoothing)
        else:
            x_VF, targets_V = features("visual", index_V, y_V, draws_V)
            out = network.head(x_VF, x_AF)
            loss = fdan_loss(out, targets_V, targets_A, alpha, kernel, smoothing)
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return torch.stack(loss).detach()

    return step
