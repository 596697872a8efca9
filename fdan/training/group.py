"""Runs with frozen backbones trained together, as one: what alone is a row of small products is one
batched product of all of them, which a GPU does in the time of one.

Each run has its own batches, losses, scores, history and checkpoints, and comes to the numbers
that train.py gives it alone, but for rounding. It may go on alone from a checkpoint made in a
group, and in a group, in any company, from one made alone.

Shapes: R runs; V, A, F, C as in model.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fdan import device as runtime
from fdan.model.network import MODALITIES, Bank, Network
from fdan.run_config import RunConfig
from fdan.training import batches
from fdan.training import validate as evaluate
from fdan.training.checkpoint import Checkpoint
from fdan.training.cuda_graph import make_graphed, side_stream
from fdan.training.group_heads import StackedHeads
from fdan.training.train import (
    Diverged,
    EpochReport,
    bare_checkpoint,
    build_network,
    check_finite,
    check_finite_validation,
    check_same_run,
    learning_rate,
    make_epoch_report,
)
from fdan.training.training_data import TrainingData


class MemberEpoch(NamedTuple):
    """An epoch of one run of a group."""

    place: int
    """Of the run among the runs."""
    epoch: EpochReport
    checkpoint: Callable[[], Checkpoint]
    """Makes the run's, until whoever is told returns."""


Report = Callable[[Sequence[MemberEpoch], Mapping[int, Diverged]], None]
"""Told after each epoch of a group: of the runs that have not diverged, and what ended those, by
their places, that diverged in it."""

_VALIDATED_AT_ONCE: Final = 256


def group_key(run: RunConfig) -> Hashable | None:
    """Runs of one kind can train as a group on the same data, from whatever epochs; they differ in
    alpha, lr, momentum, decay, epochs, seed, kernels, ratio, scale and how wide a fixed bandwidth
    is. None: a run that has to train alone, since its backbones are tuned."""
    if run.model.tuning == "full":
        return None
    return run.model, run.training.batch, run.kernel.bandwidth is None


def train_group(
    runs: Sequence[RunConfig],
    data: TrainingData,
    report: Report,
    *,
    device: str | torch.device = "cpu",
    resume: Sequence[Checkpoint | None] | None = None,
    until: Sequence[int] | None = None,
) -> None:
    """Train runs of one kind, each up to its epoch in `until` (None: to its end). One that diverges
    ends, and does not disturb the others.

    With `resume` a run goes on after its checkpoint's epoch, as in train(); so runs may
    be at unlike epochs. A report's time/epoch_s is the run's share of what the epoch took for all.
    What `report` raises ends all. Raises ConfigError, DeviceError, WeightsError.
    """
    kinds = {group_key(run) for run in runs}
    assert len(kinds) == 1 and None not in kinds, "these runs are no group"
    where = runtime.choose_device(device)
    data = data.to(where)
    data.check_fits(runs[0].model)
    members = []
    for place, run in enumerate(runs):
        start = None if resume is None else resume[place]
        if start is not None:
            check_same_run(run, data, start)
        last = run.training.epochs if until is None else min(until[place], run.training.epochs)
        member = _Member(place, run, last, start)
        if member.epoch < last:
            members.append(member)
    if not members:
        return
    with runtime.repeatable(where), side_stream(where):
        _Group(members, data, where).train(report)


class _Member:
    """How far one run is."""

    def __init__(self, place: int, run: RunConfig, until: int, start: Checkpoint | None) -> None:
        self.place, self.run, self.until, self.start = place, run, until, start
        self.epoch, self.step, self.history = 0, 0, tuple[float, ...]()
        if start is not None:
            self.epoch, self.step, self.history = start.epoch, start.step, start.history


class _Group:
    """The members that still train. A member's row is its place in `members` and in all that has
    an R."""

    def __init__(
        self, members: Sequence[_Member], data: TrainingData, device: torch.device
    ) -> None:
        self.members = list(members)
        self.data, self.device = data, device
        networks, momenta = list[Network](), list[dict[str, Tensor]]()
        for member in members:
            if member.start is None:
                networks.append(build_network(member.run, data))
                momenta.append({})
            else:
                networks.append(evaluate.restore_network(member.start))
                momenta.append(member.start.group("momentum"))
        self.heads = StackedHeads([member.run for member in members], networks, momenta, device)
        self.step = make_graphed(self.heads.step, device)
        self.bank = {m: self._chosen(number, m) for number, m in enumerate(MODALITIES)}

    def train(self, report: Report) -> None:
        truth = self.data.acoustic.labels[self.data.acoustic_validation]
        while self.members:
            began = time.perf_counter()
            losses = self._epoch()
            bank = self._bank()
            logits = self._logits(bank)
            seconds = (time.perf_counter() - began) / len(self.members)

            told, ended = list[tuple[int, MemberEpoch]](), dict[int, Diverged]()
            for row, member in enumerate(self.members):
                member.epoch += 1
                member.step += len(losses)
                try:
                    check_finite(losses[:, row], member.epoch)
                    scores = evaluate.score_logits(logits[row], truth)
                    check_finite_validation(scores, member.epoch)
                except Diverged as error:
                    ended[member.place] = error
                    continue
                member.history += (scores.uar,)
                bare = bare_checkpoint(
                    member.run, self.data, member.epoch, member.step, member.history
                )
                rate = learning_rate(member.run.training.lr, member.step - 1)
                epoch = make_epoch_report(
                    member.epoch, losses[:, row], rate, scores, bare.value, seconds
                )
                with_tensors = partial(self._filled, bare, member, row, bank)
                told.append((row, MemberEpoch(member.place, epoch, with_tensors)))
            report([one for _, one in told], ended)
            staying = [row for row, one in told if one.epoch.epoch < self.members[row].until]
            if len(staying) < len(self.members):
                self.members = [self.members[row] for row in staying]
                self.heads.keep(staying)
                self.step = make_graphed(self.heads.step, self.device)
                self.bank = {m: index_RM[staying] for m, index_RM in self.bank.items()}

    def _epoch(self) -> Tensor:
        """One pass of every member over the acoustic training part: each step's losses,
        (steps, R, 4), on the CPU; nothing waits for the device before the epoch's end."""
        plans = [
            batches.plan_epoch(
                self.data.visual_train,
                self.data.acoustic_train,
                member.run.training.batch,
                member.run.training.seed,
                member.epoch + 1,
            )
            for member in self.members
        ]
        steps = {}
        for modality in MODALITIES:
            # One size for all: they have the same data and batch.
            size = getattr(plans[0], f"{modality}_sizes")
            index = np.stack([getattr(plan, modality) for plan in plans])
            labels = self.data.domain(modality).labels[index]
            steps[modality] = zip(
                *(torch.split(self._there(a), size, dim=1) for a in (index, labels)), strict=True
            )
        count = len(plans[0].acoustic_sizes)
        rates = [
            [learning_rate(member.run.training.lr, member.step + n) for member in self.members]
            for n in range(count)
        ]
        rates_R = self._there(np.array(rates, dtype=np.float32))

        losses = torch.zeros((count, len(self.members), 4), device=self.device)
        for number, pair in enumerate(zip(*(steps[m] for m in MODALITIES), strict=True)):
            (index_RV, y_RV), (index_RA, y_RA) = pair
            x_RVF, x_RAF = self._taken("visual", index_RV), self._taken("acoustic", index_RA)
            losses[number] = self.step(x_RVF, x_RAF, y_RV, y_RA, rates_R[number])
        return losses.cpu()

    def _chosen(self, number: int, modality: str) -> Tensor:
        """The bank's samples of one modality, (R, M): as evaluate.make_bank chooses them."""
        train, labels = self.data.train_samples(modality), self.data.domain(modality).labels
        chosen = [
            batches.balanced_sample(train, labels, run.model.bank, run.training.seed, number)
            for run in (member.run for member in self.members)
        ]
        return self._there(np.stack(chosen))

    def _bank(self) -> Bank | None:
        """As evaluate.make_bank, of all members."""
        model = self.members[0].run.model
        if model.context == "none":
            return None
        if model.layers == 0:
            return ()
        return self.heads.build_bank(*(self._taken(m, self.bank[m]) for m in MODALITIES))

    def _logits(self, bank: Bank | None) -> Tensor:
        """Of the validation part: (R, A, C), on the CPU."""
        index = self._there(self.data.acoustic_validation)
        found = [
            self.heads.predict(self.data.acoustic.take(some), bank)
            for some in torch.split(index, _VALIDATED_AT_ONCE)
        ]
        return torch.cat(found, dim=1).cpu()

    def _filled(self, bare: Checkpoint, member: _Member, row: int, bank: Bank | None) -> Checkpoint:
        """With the tensors as they are now."""
        assert self.members[row : row + 1] == [member] and member.epoch == bare.epoch, "too late"
        tensors = self.heads.tensors(row)
        tensors |= {f"bank.{i}": z_R[row].to("cpu", copy=True) for i, z_R in enumerate(bank or ())}
        return replace(bare, tensors=tensors)

    def _taken(self, modality: str, index_RN: Tensor) -> Tensor:
        """Features of each run's samples, (R, N, F)."""
        taken = self.data.domain(modality).take(index_RN.flatten())
        return taken.view(*index_RN.shape, -1)

    def _there(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
