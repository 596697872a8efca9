"""Training of folds: those of a run advance side by side, epoch by epoch, and are reported as one.

A fold is a run of its own in all but the report: it has the run's seed, its own steps, its own
standardised features and its own bank, so that its numbers are those of a run on that split alone.
Runs with frozen backbones and folds of equal shape train as one group, several runs with all their
folds too, which equals them but for rounding (group.py). Other folds train one after the other in
each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from fdan.device import choose_device, repeatable
from fdan.errors import ConfigError
from fdan.machine.cuda_graph import side_stream
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds.checkpoint import FoldsCheckpoint, mean_history
from fdan.training.group import Group, Member, MemberEpoch, shape_key
from fdan.training.objective import objective_value
from fdan.training.train import Diverged, EpochReport, Trainer
from fdan.training.training_data import TrainingData


class FoldsEpoch(NamedTuple):
    """An epoch of all folds of a run."""

    run: int  # its place among the runs
    epoch: EpochReport
    """The metrics' means over folds; value: objective_value of the mean validation UAR's history;
    time/epoch_s: of all folds; fold/1/validation_uar and so on; the confusion's sum."""
    checkpoint: Callable[[], FoldsCheckpoint]  # makes the run's checkpoint, until `report` returns


Report = Callable[[Sequence[FoldsEpoch], Mapping[int, Diverged]], None]
"""Called after each epoch with the runs that have not diverged, and with what ended those, by their
index, of which a fold diverged in it."""


def train_folds(
    runs: Sequence[RunConfig],
    folds: Sequence[TrainingData],
    report: Report,
    *,
    device: str | torch.device = "cpu",
    resume: Sequence[FoldsCheckpoint | None] | None = None,
    until: Sequence[int] | None = None,
) -> None:
    """Train one or several runs on the same folds. A run of which a fold diverges ends, and does
    not disturb the others.

    Args:
        runs: The runs.
        folds: The folds' data: the same samples, divided otherwise in each.
        report: Callback after each epoch; what it raises ends all.
        device: As in train(), which raises the same errors.
        resume: Checkpoints; a run goes on after its own, as in train().
        until: Each run's last epoch; None trains each to its end.
    """
    where = choose_device(device)
    folds = _to_device(folds, where)
    trials: dict[int, list[Member]] = {}
    for index, run in enumerate(runs):
        checkpoint = None if resume is None else resume[index]
        last = run.training.epochs if until is None else until[index]
        members = _members(run, folds, checkpoint, (index * len(folds), last))
        if members[0].trains_on:
            trials[index] = members
    with repeatable(where), side_stream(where):
        lanes = _make_lanes([member for members in trials.values() for member in members], where)
        while trials:
            epochs: dict[int, MemberEpoch] = {}
            diverged: dict[int, Diverged] = {}
            for lane in lanes:
                trained, ended = lane.train_epoch()
                epochs |= {member.run: member for member in trained}
                for number in ended:
                    run_index, fold = divmod(number, len(folds))
                    error = Diverged(f"fold {fold + 1}: {ended[number]}")
                    diverged.setdefault(run_index, error)
            trials = {index: own for index, own in trials.items() if index not in diverged}
            report([_join(index, own, epochs) for index, own in trials.items()], diverged)
            trials = {index: own for index, own in trials.items() if own[0].trains_on}
            numbers = {member.index for members in trials.values() for member in members}
            for lane in lanes:
                lane.keep(numbers)
            lanes = [lane for lane in lanes if lane.members]


class _Lane(Protocol):
    """Folds that advance together."""

    members: list[Member]

    def train_epoch(self) -> tuple[list[MemberEpoch], dict[int, Diverged]]: ...

    def keep(self, runs: Collection[int]) -> None: ...


class _Single:
    """A fold that trains by itself."""

    def __init__(self, member: Member, device: torch.device) -> None:
        self.members = [member]
        self._trainer = Trainer(member, device)

    def train_epoch(self) -> tuple[list[MemberEpoch], dict[int, Diverged]]:
        (member,) = self.members
        try:
            epoch, checkpoint = self._trainer.train_epoch()
        except Diverged as error:
            return [], {member.index: error}
        return [MemberEpoch(member.index, epoch, checkpoint)], {}

    def keep(self, runs: Collection[int]) -> None:
        self.members = [m for m in self.members if m.index in runs and m.trains_on]


def _make_lanes(members: Sequence[Member], device: torch.device) -> list[_Lane]:
    alike: dict[Hashable, list[Member]] = {}
    for member in members:
        key = shape_key(member.run, member.data)
        alike.setdefault(("alone", member.index) if key is None else key, []).append(member)
    return [
        Group(own, device) if len(own) > 1 else _Single(own[0], device) for own in alike.values()
    ]


def _members(
    run: RunConfig,
    folds: Sequence[TrainingData],
    resume: FoldsCheckpoint | None,
    place: tuple[int, int],
) -> list[Member]:
    """A run's folds. place: number of the first one, and the last epoch."""
    if resume is not None and len(resume.folds) != len(folds):
        raise ConfigError(
            f"the checkpoint to go on from has {len(resume.folds)} folds, this run has {len(folds)}"
        )
    first, last = place
    starts: Sequence[Checkpoint | None] = (None,) * len(folds) if resume is None else resume.folds
    return [
        Member(run, data, start, (first + number, last))
        for number, (data, start) in enumerate(zip(folds, starts, strict=True))
    ]


def _to_device(folds: Sequence[TrainingData], device: torch.device) -> list[TrainingData]:
    """The folds on a device, with the one copy of the samples that all share."""
    first = folds[0].to(device)
    for fold in folds:
        same = fold.visual is folds[0].visual and fold.acoustic is folds[0].acoustic
        assert same, "folds have the same samples"
    return [replace(fold, visual=first.visual, acoustic=first.acoustic) for fold in folds]


def _join(run: int, members: Sequence[Member], epochs: Mapping[int, MemberEpoch]) -> FoldsEpoch:
    folds = [epochs[member.index] for member in members]
    reports = [fold.epoch for fold in folds]
    metrics = {
        name: sum(report.metrics[name] for report in reports) / len(reports)
        for name in reports[0].metrics
    }
    metrics["time/epoch_s"] *= len(reports)
    metrics["value"] = objective_value(mean_history([member.now.history for member in members]))
    for number, report in enumerate(reports, start=1):
        metrics[f"fold/{number}/validation_uar"] = report.metrics["validation/uar"]
    confusion = sum((report.confusion for report in reports[1:]), start=reports[0].confusion)

    def checkpoint() -> FoldsCheckpoint:
        return FoldsCheckpoint(tuple(fold.checkpoint() for fold in folds))

    return FoldsEpoch(run, EpochReport(reports[0].epoch, metrics, confusion), checkpoint)
