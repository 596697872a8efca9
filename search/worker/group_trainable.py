"""Several trials that train as one inside a worker (`--group`), as a function for Ray Tune.

Their epochs go to the driver together, as pairs of a trial's number and its message. What concerns
the worker is one message, as for a single trial; search.tune.grouping passes it on to each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from search.worker.async_report import AsyncReporter
from search.worker.data import WorkerData, load_data
from search.worker.epoch_log import EpochLog
from search.worker.messages import (
    ASSIGNMENTS,
    MESSAGE,
    EpochDone,
    EpochResult,
    TrialAssignment,
    TrialFailed,
)
from search.worker.trainable import (
    Train,
    Trainable,
    TrialContext,
    WorkerSetup,
    awaits_decision,
    make_trainable,
    node_id,
    run_assignments,
)
from search.worker.training import (
    CheckpointTimer,
    epoch_result,
    load_resume_point,
    prepare_process,
)
from search.worker.trial_folder import CHECKPOINT

if TYPE_CHECKING:
    from fdan.training.group import MemberEpoch
    from fdan.training.train import Diverged

ReportGroup = Callable[[Mapping[int, EpochResult], Mapping[int, str]], None]
"""Takes an epoch of some trials, and why others failed, by the trials' numbers."""

TrainGroup = Callable[[Sequence[TrialContext], ReportGroup], None]
"""Trains several trials as one, each to its stop epoch. What it raises decides about none of them:
they go on one by one."""


def make_group_trainable(train: Train, train_group: TrainGroup, setup: WorkerSetup) -> Trainable:
    """As search.worker.trainable.make_trainable, for a config with one or several trials.

    Args:
        train: Function that trains a single trial.
        train_group: Function that trains a group of trials.
        setup: Setup that all trials share.
    """
    single_trial = make_trainable(train, setup)

    def run(reporter: AsyncReporter, trials: Sequence[TrialContext]) -> None:
        members = {trial.number: trial for trial in trials}

        def report(epochs: Mapping[int, EpochResult], failed: Mapping[int, str]) -> None:
            done = [(number, EpochDone(result, node_id())) for number, result in epochs.items()]
            ended = [(number, TrialFailed(reason)) for number, reason in failed.items()]
            message = {MESSAGE: (*done, *ended)}
            if ended or any(awaits_decision(members[n], epochs[n]) for n in epochs):
                reporter.report_and_wait(message)
            else:
                reporter.report(message)

        train_group(trials, report)

    def fdan_trial(config: dict[str, Sequence[TrialAssignment]]) -> None:
        if len(config[ASSIGNMENTS]) == 1:
            single_trial(config)
        else:
            run_assignments(config[ASSIGNMENTS], setup, run)

    return fdan_trial


def make_group_trainer(data: WorkerData) -> TrainGroup:
    """Trains several FDANs with frozen backbones as one."""

    def train_trials(trials: Sequence[TrialContext], report: ReportGroup) -> None:
        from fdan.training.group import train_group

        prepare_process(max(trials, key=lambda trial: trial.gpu_fraction))
        runs = [data.run_config(trial.params, f"trial {trial.number}") for trial in trials]
        resume = []
        for trial, run in zip(trials, runs, strict=True):
            checkpoint, unreported = load_resume_point(trial.folder, trial.start_epoch, run)
            resume.append(checkpoint)
            for result in unreported:
                report({trial.number: result}, {})
        timer = CheckpointTimer()

        def after_epoch(members: Sequence[MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
            results = {}
            for member in members:
                result = results[trials[member.run].number] = epoch_result(member.epoch)
                logs[member.run].append(result)
            due = timer.due
            for member in members:
                trial = trials[member.run]
                if due or member.epoch.epoch == trial.stop_epoch:
                    logs[member.run].sync()
                    member.checkpoint().save(trial.folder / CHECKPOINT)
            if due:
                timer.saved()
            report(results, {trials[place].number: str(why) for place, why in diverged.items()})

        with contextlib.ExitStack() as stack:
            logs = [stack.enter_context(EpochLog(trial.folder)) for trial in trials]
            train_group(
                runs,
                load_data(data, runs[0], trials[0].notify),
                after_epoch,
                device=data.device,
                resume=resume,
                until=[trial.stop_epoch for trial in trials],
            )

    return train_trials
