"""Joint training of runs with frozen backbones: a row of small products becomes one batched product
of all of them, which a GPU does in the time of one.

Each run has its own batches, losses, scores, history and checkpoints, and may have parts of its own
of the samples that all share. Its numbers equal those of train.py but for rounding. It may go on
alone from a checkpoint made in a group, and in any group from one made alone.

Shapes: R runs, M samples in a bank; V, A, F, C as in model/network.py.
"""

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
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
from fdan.training.batches import bank_samples, batch_sizes, plan_epoch
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
    bandwidth is. None: the run has to train alone, since its backbones or their last stages are
    tuned, or by what a group does not do: AdamW, mixup, dropout, an average of weights, speech
    alone."""
    model, training = run.model, run.training
    alone = (model.tuning != "frozen", model.system != "fdan", model.dropout, training.mixup)
    if any((*alone, training.average, training.optimizer != "sgd")):
        return None
    return model, training.batch, run.kernel.bandwidth is None, training.smoothing


def shape_key(run: RunConfig, data: TrainingData) -> Hashable | None:
    """Runs with equal keys can train as a group although each has other parts of the same samples:
    as many steps of the same sizes, and a bank of the same size. None: as in `group_key`.

    Args:
        run: The run.
        data: Its training data.
    """
    if (key := group_key(run)) is None:
        return None
    steps = batch_sizes(len(data.acoustic_train), run.training.batch)
    return key, steps, tuple(len(samples) for samples in bank_samples(run, data).values())


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
        last = run.training.epochs if until is None else until[index]
        member = Member(run, data, None if resume is None else resume[index], (index, last))
        if member.trains_on:
            members.append(member)
    if not members:
        return
    with repeatable(where), side_stream(where):
        group = Group(members, where)
        while group.members:
            epochs, diverged = group.train_epoch()
            report(epochs, diverged)
            group.keep({epoch.run for epoch in epochs})


class Member(RunProgress):
    """A run beside others."""

    def __init__(
        self,
        run: RunConfig,
        data: TrainingData,
        resume: Checkpoint | None,
        place: tuple[int, int],
    ) -> None:
        """place: number of the run, and the epoch after which it ends, if not at its own end."""
        super().__init__(run, data, resume)
        self.index, until = place
        self.until = min(until, run.training.epochs)

    @property
    def trains_on(self) -> bool:
        return self.now.epoch < self.until


class Group:
    """The members that still train, inside `repeatable` and `side_stream`. A member's row is its
    place in `members` and in all tensors that have an R."""

    def __init__(self, members: Sequence[Member], device: torch.device) -> None:
        """Build the networks, or restore them.

        Args:
            members: Runs of one `shape_key`, on the same samples, which are on the device.
            device: The device.
        """
        self.members = list(members)
        self.data, self.device = members[0].data, device
        for member in members:
            for modality in MODALITIES:
                same = member.data.domain(modality) is self.data.domain(modality)
                assert same, "the runs of a group have the same samples"
        networks, states = zip(*(member.start_network() for member in members), strict=True)
        momenta = [{k.removeprefix("momentum."): z for k, z in s.items()} for s in states]
        self.heads = StackedHeads([member.run for member in members], networks, momenta, device)
        self.step = make_graphed(self.heads.step, device)
        chosen = [bank_samples(member.run, member.data) for member in members]
        self.bank = {
            m: torch.from_numpy(np.stack([samples[m] for samples in chosen])).to(device)
            for m in MODALITIES
        }

    def train_epoch(self) -> tuple[list[MemberEpoch], dict[int, Diverged]]:
        """Train and score the next epoch of every member. Returns those that have not diverged, and
        what ended those, by their numbers, that have."""
        began = time.perf_counter()
        losses = self._pass()
        bank = self._make_bank()
        logits = self._predict_logits(bank)
        seconds = (time.perf_counter() - began) / len(self.members)

        epochs, diverged = list[MemberEpoch](), dict[int, Diverged]()
        for row, member in enumerate(self.members):
            try:
                epoch = member.finish_epoch(losses[:, row], logits[row], seconds)
            except Diverged as error:
                diverged[member.index] = error
            else:
                make = partial(self._with_tensors, member.now, row, bank)
                epochs.append(MemberEpoch(member.index, epoch, make))
        return epochs, diverged

    def keep(self, runs: Collection[int]) -> None:
        """Go on with those of these runs that are not at their ends."""
        members = enumerate(self.members)
        rows = [row for row, member in members if member.index in runs and member.trains_on]
        if len(rows) < len(self.members):
            self.members = [self.members[row] for row in rows]
            self.heads.select(rows)
            self.step = make_graphed(self.heads.step, self.device)
            self.bank = {m: index_RM[rows] for m, index_RM in self.bank.items()}

    def _pass(self) -> Tensor:
        """One pass of every member over the acoustic training part: each step's losses,
        (steps, R, 4), on the CPU; nothing waits for the device before the epoch's end."""
        plans = [
            plan_epoch(member.data, member.run.training, member.now.epoch + 1)
            for member in self.members
        ]
        steps = []
        for modality in MODALITIES:
            # One size for all: they have one shape_key.
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

    def _predict_logits(self, bank: Bank | None) -> list[Tensor]:
        """Logits of each member's validation part: (A, C), on the CPU."""
        parts = [member.data.acoustic_validation for member in self.members]
        if all(part is parts[0] for part in parts):
            index = torch.from_numpy(parts[0]).to(self.device)
            speech = [self.data.acoustic.take(i) for i in torch.split(index, FEATURES_AT_ONCE)]
        else:  # what fills up the shorter ones is answered, and left out below
            longest = max(map(len, parts))
            filled = np.stack([np.resize(part, longest) for part in parts])
            index_RA = torch.from_numpy(filled).to(self.device)
            batches = torch.split(index_RA, FEATURES_AT_ONCE, dim=1)
            speech = [self._features("acoustic", index) for index in batches]
        logits = torch.cat([self.heads.predict(x, bank) for x in speech], dim=1).cpu()
        return [logits_AC[: len(part)] for logits_AC, part in zip(logits, parts, strict=True)]

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
