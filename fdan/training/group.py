"""Joint training of runs with frozen backbones: a row of small products becomes one batched product
of all of them, which a GPU does in the time of one.

Each run has its own batches, losses, scores, history and checkpoints. Its numbers equal those of
train.py but for rounding. It may go on alone from a checkpoint made in a group, and in any group
from one made alone.

Shapes: R runs, M samples in a bank; V, A, F, C as in model/network.py.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fdan.device import choose_device, repeatable
from fdan.emotions import MODALITIES
from fdan.machine.cuda_graph import make_graphed, side_stream
from fdan.model.network import Bank
from fdan.run_config import RunConfig
from fdan.training.batches import bank_samples, plan_epoch
from fdan.training.checkpoint import Checkpoint
from fdan.training.group_heads import StackedHeads
from fdan.training.train import Diverged, EpochReport, RunProgress
from fdan.training.training_data import TrainingData
from fdan.training.validate import FEATURES_AT_ONCE


class MemberEpoch(NamedTuple):
    """An epoch of one run of a group."""

    run: int  # its place among the runs
    epoch: EpochReport
    checkpoint: Callable[[], Checkpoint]  # makes the run's checkpoint, until `report` returns


Report = Callable[[Sequence[MemberEpoch], Mapping[int, Diverged]], None]
"""Called after each epoch of a group with the runs that have not diverged, and with what ended
those, by their index, that diverged in it."""


def group_key(run: RunConfig) -> Hashable | None:
    """Runs with equal keys can train as a group on the same data, from whatever epochs; they differ
    in alpha, lr, momentum, decay, epochs, seed, kernels, ratio, scale and how wide a fixed
    bandwidth is. None: the run has to train alone, since its backbones are tuned, or by what a
    group does not do: AdamW, mixup, dropout, an average of weights, speech alone."""
    model, training = run.model, run.training
    alone = (model.tuning == "full", model.system != "fdan", model.dropout, training.mixup)
    if any((*alone, training.average, training.optimizer != "sgd")):
        return None
    return model, training.batch, run.kernel.bandwidth is None, training.smoothing


def train_group(
    runs: Sequence[RunConfig],
    data: TrainingData,
    report: Report,
    *,
    device: str | torch.device = "cpu",
    resume: Sequence[Checkpoint | None] | None = None,
    until: Sequence[int] | None = None,
) -> None:
    """Train runs as a group. One that diverges ends, and does not disturb the others.

    Args:
        runs: Runs, all with the same group_key.
        data: Their training data.
        report: Callback after each epoch; time/epoch_s is the run's share of the epoch's time for
            all. What it raises ends all.
        device: As in train(), which raises the same errors.
        resume: Checkpoints; a run goes on after its own, as in train(), so that runs may be at
            different epochs.
        until: Each run's last epoch; None trains each to its end.
    """
    keys = {group_key(run) for run in runs}
    assert len(keys) == 1 and None not in keys, "these runs are no group"
    where = choose_device(device)
    data = data.to(where)
    members = []
    for index, run in enumerate(runs):
        member = _Member(run, data, None if resume is None else resume[index])
        last = run.training.epochs if until is None else until[index]
        member.index, member.until = index, min(last, run.training.epochs)
        if member.trains_on:
            members.append(member)
    if members:
        with repeatable(where), side_stream(where):
            _Group(members, data, where).train(report)


class _Member(RunProgress):
    index: int
    until: int

    @property
    def trains_on(self) -> bool:
        return self.now.epoch < self.until


class _Group:
    """The members that still train. A member's row is its place in `members` and in all tensors
    that have an R."""

    def __init__(
        self, members: Sequence[_Member], data: TrainingData, device: torch.device
    ) -> None:
        self.members = list(members)
        self.data, self.device = data, device
        networks, states = zip(*(member.start_network() for member in members), strict=True)
        momenta = [{k.removeprefix("momentum."): z for k, z in s.items()} for s in states]
        self.heads = StackedHeads([member.run for member in members], networks, momenta, device)
        self.step = make_graphed(self.heads.step, device)
        chosen = [bank_samples(member.run, data) for member in members]
        self.bank = {
            m: torch.from_numpy(np.stack([samples[m] for samples in chosen])).to(device)
            for m in MODALITIES
        }

    def train(self, report: Report) -> None:
        while self.members:
            began = time.perf_counter()
            losses = self._epoch()
            bank = self._make_bank()
            logits = self._predict_logits(bank)
            seconds = (time.perf_counter() - began) / len(self.members)

            finished, diverged = dict[int, MemberEpoch](), dict[int, Diverged]()
            for row, member in enumerate(self.members):
                try:
                    epoch = member.finish_epoch(losses[:, row], logits[row], seconds)
                except Diverged as error:
                    diverged[member.index] = error
                else:
                    make = partial(self._with_tensors, member.now, row, bank)
                    finished[row] = MemberEpoch(member.index, epoch, make)
            report(list(finished.values()), diverged)
            staying = [row for row in finished if self.members[row].trains_on]
            if len(staying) < len(self.members):
                self.members = [self.members[row] for row in staying]
                self.heads.select(staying)
                self.step = make_graphed(self.heads.step, self.device)
                self.bank = {m: index_RM[staying] for m, index_RM in self.bank.items()}

    def _epoch(self) -> Tensor:
        """One pass of every member over the acoustic training part: each step's losses,
        (steps, R, 4), on the CPU; nothing waits for the device before the epoch's end."""
        plans = [
            plan_epoch(self.data, member.run.training, member.now.epoch + 1)
            for member in self.members
        ]
        steps = []
        for modality in MODALITIES:
            # One size for all: they have the same data and batch.
            sizes = plans[0][modality].sizes
            index = np.stack([plan[modality].samples for plan in plans])
            labels = self.data.domain(modality).labels[index]
            tensors = (torch.from_numpy(array).to(self.device) for array in (index, labels))
            steps += [torch.split(tensor, sizes, dim=1) for tensor in tensors]
        count = len(plans[0]["acoustic"].sizes)
        rates = [
            [
                member.run.training.lr * member.learning_rate_factor(member.now.step + number)
                for member in self.members
            ]
            for number in range(count)
        ]
        rates_R = torch.tensor(rates, dtype=torch.float32).to(self.device)

        losses = torch.zeros((count, len(self.members), 4), device=self.device)
        for number, batch in enumerate(zip(*steps, strict=True)):
            index_RV, y_RV, index_RA, y_RA = batch
            x_RVF, x_RAF = self._features("visual", index_RV), self._features("acoustic", index_RA)
            losses[number] = self.step(x_RVF, x_RAF, y_RV, y_RA, rates_R[number])
        return losses.cpu()

    def _make_bank(self) -> Bank | None:
        """validate.make_bank for all members."""
        model = self.members[0].run.model
        if model.context == "none":
            return None
        if model.layers == 0:
            return ()
        return self.heads.build_bank(*(self._features(m, self.bank[m]) for m in MODALITIES))

    def _predict_logits(self, bank: Bank | None) -> Tensor:
        """Logits of the validation part: (R, A, C), on the CPU."""
        index = torch.from_numpy(self.data.acoustic_validation).to(self.device)
        logits = [
            self.heads.predict(self.data.acoustic.take(batch), bank)
            for batch in torch.split(index, FEATURES_AT_ONCE)
        ]
        return torch.cat(logits, dim=1).cpu()

    def _with_tensors(self, checkpoint: Checkpoint, row: int, bank: Bank | None) -> Checkpoint:
        same = row < len(self.members) and checkpoint is self.members[row].now
        assert same, "too late: the weights are those of another epoch"
        tensors = self.heads.checkpoint_tensors(row)
        tensors |= {f"bank.{i}": z_R[row].to("cpu", copy=True) for i, z_R in enumerate(bank or ())}
        return replace(checkpoint, tensors=tensors)

    def _features(self, modality: str, index_RN: Tensor) -> Tensor:
        """Features of each run's samples, (R, N, F)."""
        taken = self.data.domain(modality).take(index_RN.flatten())
        return taken.view(*index_RN.shape, -1)
