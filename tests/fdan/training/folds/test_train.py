"""Folds train as runs of their own, and are reported as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.errors import ConfigError
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds import train as folds_train
from fdan.training.folds.checkpoint import FoldsCheckpoint
from fdan.training.folds.train import FoldsEpoch, train_folds
from fdan.training.group import Group
from fdan.training.train import Diverged, EpochReport, train
from fdan.training.training_data import TrainingData

Make = Callable[..., Any]
Told = list[tuple[EpochReport, FoldsCheckpoint]]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}

TESTED = 14  # the first acoustic samples are the test part

RECIPE = {
    **{"optimizer": "adamw", "schedule": "one-cycle", "decay": 0.05, "smoothing": 0.1},
    **{"mixup": 0.2, "dropout": 0.3, "average": 0.9},
}


def divide(data: TrainingData, cuts: Sequence[int], tested: int = TESTED) -> list[TrainingData]:
    """Folds whose validation parts lie between the cuts; each trains on other faces, too."""
    speech = np.arange(tested, len(data.acoustic.labels))
    faces = np.arange(len(data.visual.labels))
    folds = []
    for number, held in enumerate(np.split(speech, cuts)):
        folds.append(
            replace(
                data,
                visual_train=faces[faces % 5 != number],
                acoustic_train=np.setdiff1d(speech, held),
                acoustic_validation=held,
                fingerprint=f"fold {number}",
            )
        )
    return folds


def together(
    runs: Sequence[RunConfig], folds: Sequence[TrainingData], **more: Any
) -> tuple[list[Told], dict[int, str]]:
    told: list[Told] = [[] for _ in runs]
    ended: dict[int, str] = {}

    def report(epochs: Sequence[FoldsEpoch], diverged: Mapping[int, Diverged]) -> None:
        for run, epoch, make in epochs:
            told[run].append((epoch, make()))
        ended.update({run: str(error) for run, error in diverged.items()})

    train_folds(runs, folds, report, **more)
    return told, ended


def alone(run: RunConfig, data: TrainingData) -> list[tuple[EpochReport, Checkpoint]]:
    told = []
    train(run, data, lambda report, checkpoint: told.append((report, checkpoint())))
    return told


def assert_equal(one: Checkpoint, other: Checkpoint, close: Mapping[str, float]) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    assert replace(one, tensors={}) == replace(other, tensors={})
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], **close, msg=name)


def assert_folds_are_single_runs(
    told: Told, run: RunConfig, folds: Sequence[TrainingData], close: Mapping[str, float]
) -> None:
    """In every epoch: each fold's checkpoint and score, and what is made of all of them."""
    singles = [alone(run, fold) for fold in folds]
    assert len(told) == run.training.epochs
    for epoch, (report, checkpoint) in enumerate(told):
        reports = [single[epoch][0] for single in singles]
        for fold, single in zip(checkpoint.folds, singles, strict=True):
            assert_equal(fold, single[epoch][1], close)
        for name in reports[0].metrics.keys() - {"time/epoch_s"}:
            mean = np.mean([single.metrics[name] for single in reports])
            np.testing.assert_allclose(report.metrics[name], mean, **CLOSE, err_msg=name)
        for number, single in enumerate(reports, start=1):
            score = report.metrics[f"fold/{number}/validation_uar"]
            assert score == single.metrics["validation/uar"]
        assert f"fold/{len(folds) + 1}/validation_uar" not in report.metrics
        np.testing.assert_array_equal(report.confusion, sum(r.confusion for r in reports))
        assert report.epoch == checkpoint.epoch == epoch + 1
        assert report.metrics["value"] == checkpoint.value


EXACT = {"rtol": 0.0, "atol": 0.0}


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"layers": 1}, (14, 35)),  # of 14, 21 and 35 samples
        ({"layers": 2, **RECIPE}, (14, 28, 42, 56)),
        ({"tuning": "full", "epochs": 2, "batch": 5}, (7,)),
        ({"tuning": "last", "epochs": 2, "batch": 5}, (7,)),
    ],
    ids=["of other sizes", "recipe", "full", "last"],
)
def test_a_fold_by_itself_is_a_single_run_to_the_last_bit(
    settings: dict[str, Any],
    cuts: tuple[int, ...],
    data_of: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folds_train, "Group", None)
    run = run_of(**settings)
    tuning = run.model.tuning
    folds = divide(data_of(tuning), cuts, tested=TESTED if tuning == "frozen" else 7)
    (told,), ended = together([run], folds)
    assert not ended
    assert_folds_are_single_runs(told, run, folds, EXACT)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the groups that are made."""
    sizes: list[int] = []

    class Counted(Group):
        def __init__(self, members: Any, device: Any) -> None:
            sizes.append(len(members))
            super().__init__(members, device)

    monkeypatch.setattr(folds_train, "Group", Counted)
    return sizes


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_frozen_folds_of_equal_size_are_a_group(
    layers: int, frozen_data: Make, run_of: Make, groups: list[int]
) -> None:
    run, folds = run_of(layers=layers, alpha=0.1), divide(frozen_data(), (14, 28, 42, 56))
    (told,), ended = together([run], folds)
    assert groups == [5] and not ended
    assert_folds_are_single_runs(told, run, folds, CLOSE)


def test_several_runs_and_their_folds_are_one_group(
    frozen_data: Make, run_of: Make, groups: list[int]
) -> None:
    """Also where validation parts differ in size."""
    folds = divide(frozen_data(), (35,))
    folds[1] = replace(folds[1], acoustic_validation=folds[1].acoustic_validation[:9])
    runs = [run_of(alpha=0.2), run_of(seed=3, epochs=2), run_of(momentum=0.0, epochs=3)]
    told, ended = together(runs, folds)
    assert groups == [6] and not ended
    for run, own in zip(runs, told, strict=True):
        assert_folds_are_single_runs(own, run, folds, CLOSE)


def test_folds_of_two_sizes_are_two_groups(
    frozen_data: Make, run_of: Make, groups: list[int]
) -> None:
    folds = divide(frozen_data(), (14, 28, 42))  # the last one validates on 28 of 70
    runs = [run_of(alpha=0.2), run_of(seed=3)]
    told, _ = together(runs, folds)
    assert sorted(groups) == [2, 6]
    for run, own in zip(runs, told, strict=True):
        assert_folds_are_single_runs(own, run, folds, CLOSE)


@pytest.mark.parametrize(
    ("settings", "cuts"),
    [
        ({"layers": 1}, (14, 28, 42, 56)),  # a group
        ({"layers": 1}, (14, 35)),
        ({"layers": 1, **RECIPE}, (21, 42)),
        ({"tuning": "full", "epochs": 2, "batch": 5}, (7,)),
        ({"tuning": "last", "epochs": 2, "batch": 5}, (7,)),
    ],
    ids=["group", "of other sizes", "recipe", "full", "last"],
)
def test_going_on_equals_never_having_stopped(
    settings: dict[str, Any],
    cuts: tuple[int, ...],
    data_of: Make,
    run_of: Make,
    tmp_path: Path,
) -> None:
    run = run_of(**settings)
    tuning = run.model.tuning
    folds = divide(data_of(tuning), cuts, tested=TESTED if tuning == "frozen" else 7)
    (whole,), _ = together([run], folds)
    for stop in range(1, run.training.epochs):
        whole[stop - 1][1].save(tmp_path / "kept")
        torch.manual_seed(stop)
        (rest,), _ = together([run], folds, resume=[FoldsCheckpoint.load(tmp_path / "kept")])
        assert len(rest) == run.training.epochs - stop
        for (report, checkpoint), (expected, other) in zip(rest, whole[stop:], strict=True):
            for one, two in zip(checkpoint.folds, other.folds, strict=True):
                assert_equal(one, two, EXACT)
            assert without_time(report) == without_time(expected)
            np.testing.assert_array_equal(report.confusion, expected.confusion)


def without_time(report: EpochReport) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if name != "time/epoch_s"}


def test_runs_at_other_epochs_go_on_beside_each_other(frozen_data: Make, run_of: Make) -> None:
    folds = divide(frozen_data(), (14, 28, 42, 56))
    runs = [run_of(seed=1), run_of(seed=2), run_of(seed=3)]
    whole, _ = together(runs, folds)
    first, _ = together(runs, folds, until=[1, 3, 2])
    assert [len(told) for told in first] == [1, 3, 2]
    starts = [first[0][-1][1], first[1][-1][1], None]
    rest, _ = together(runs, folds, resume=starts)
    for ours, theirs in zip(rest, (whole[0][1:], whole[1][3:], whole[2]), strict=True):
        assert len(ours) == len(theirs)
        for (_, one), (_, two) in zip(ours, theirs, strict=True):
            for fold, other in zip(one.folds, two.folds, strict=True):
                assert_equal(fold, other, CLOSE)
    done = [told[-1][1] for told in whole]
    assert together(runs, folds, resume=done) == ([[], [], []], {})


@pytest.mark.parametrize("cuts", [(14, 28, 42, 56), (14, 35)], ids=["group", "single"])
def test_the_test_part_takes_no_part(
    cuts: tuple[int, ...], frozen_data: Make, run_of: Make
) -> None:
    data, run = frozen_data(), run_of(layers=1, alpha=0.1)
    poisoned = data.acoustic.arrays[0].clone()
    poisoned[:TESTED] = torch.nan
    labels = data.acoustic.labels.copy()
    labels[:TESTED] = 6 - labels[:TESTED]
    other = replace(data, acoustic=replace(data.acoustic, arrays=(poisoned,), labels=labels))
    (one,), _ = together([run], divide(data, cuts))
    (two,), ended = together([run], divide(other, cuts))
    assert not ended
    for (report, checkpoint), (its, its_checkpoint) in zip(one, two, strict=True):
        assert without_time(report) == without_time(its)
        for fold, its_fold in zip(checkpoint.folds, its_checkpoint.folds, strict=True):
            assert_equal(fold, its_fold, EXACT)


def test_a_run_of_which_a_fold_diverges_ends_alone(frozen_data: Make, run_of: Make) -> None:
    folds = divide(frozen_data(), (14, 28, 42, 56))
    good, bad = run_of(alpha=0.1), run_of(lr=1e9)
    told, ended = together([good, bad], folds)
    assert list(ended) == [1] and ended[1].startswith("fold 1: ") and told[1] == []
    assert_folds_are_single_runs(told[0], good, folds, CLOSE)
    # One fold alone: what it validates on trains no other.
    data = frozen_data()
    spoilt = data.acoustic.arrays[0].clone()
    spoilt[40] = torch.inf
    data = replace(data, acoustic=replace(data.acoustic, arrays=(spoilt,)))
    folds = divide(data, (21, 42))
    train = [np.setdiff1d(fold.acoustic_train, [40]) for fold in folds]
    folds = [replace(f, acoustic_train=own) for f, own in zip(folds, train, strict=True)]
    told, ended = together([good], folds)
    assert told == [[]] and "fold 2: the validation loss is nan after epoch 1" in ended[0]


def test_a_checkpoint_is_of_one_epoch(frozen_data: Make, run_of: Make) -> None:
    makers: list[Callable[[], FoldsCheckpoint]] = []

    def report(epochs: Sequence[FoldsEpoch], _: object) -> None:
        for make in makers:
            with pytest.raises(AssertionError, match="too late"):
                make()
        makers.extend(epoch.checkpoint for epoch in epochs)

    train_folds([run_of(epochs=2)], divide(frozen_data(), (21, 42)), report)
    assert len(makers) == 2


def test_another_number_of_folds_cannot_go_on(frozen_data: Make, run_of: Make) -> None:
    data, run = frozen_data(), run_of(epochs=2)
    (told,), _ = together([run], divide(data, (21, 42)))
    with pytest.raises(ConfigError, match="has 3 folds, this run has 2"):
        together([run], divide(data, (35,)), resume=[told[0][1]])
    with pytest.raises(ConfigError, match="trained on other data"):
        together([run], divide(data, (14, 42))[::-1], resume=[told[0][1]])
