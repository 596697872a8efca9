"""Trials of a study with folds inside a worker: all folds at once, and on from where they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fdan.data.folds import fold_splits
from fdan.training.folds.checkpoint import FoldsCheckpoint
from fdan.training.train import train
from search.worker.data import WorkerData, load_data
from search.worker.messages import EpochResult
from search.worker.trainable import TrialContext
from search.worker.training import load_resume_point, make_group_trainer, make_trainer
from search.worker.trial_folder import CHECKPOINT
from tests.search.worker.test_trainable import EPOCHS, PARAMS, run, same


@pytest.fixture(scope="module")
def folds(work: WorkerData) -> WorkerData:
    return replace(work, split={**work.split, "folds": "loso"})


@pytest.fixture(scope="module")
def whole(
    folds: WorkerData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, EpochResult]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folds, folder)


def assert_equal(one: Path, other: Path) -> None:
    a, b = FoldsCheckpoint.load(one / CHECKPOINT), FoldsCheckpoint.load(other / CHECKPOINT)
    for ours, theirs in zip(a.folds, b.folds, strict=True):
        assert replace(ours, tensors={}) == replace(theirs, tensors={})
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert all(torch.equal(z, theirs.tensors[name]) for name, z in ours.tensors.items())


def test_an_epoch_is_the_mean_of_single_runs(
    folds: WorkerData, whole: tuple[Path, dict[int, EpochResult]]
) -> None:
    config = folds.run_config(PARAMS, "a trial")
    loaded = load_data(folds, config, print)
    assert len(loaded) > 1
    singles: list[list[float]] = []
    for fold in loaded:
        scores: list[float] = []
        train(config, fold, lambda e, _, own=scores: own.append(e.metrics["validation/uar"]))
        singles.append(scores)
    for epoch, result in whole[1].items():
        each = [scores[epoch - 1] for scores in singles]
        assert result.metrics["validation/uar"] == pytest.approx(sum(each) / len(each), abs=1e-5)
        for number, score in enumerate(each, start=1):
            found = result.metrics[f"fold/{number}/validation_uar"]
            assert found == pytest.approx(score, abs=1e-5)
        assert result.value == result.metrics["value"]
        validated = sum(len(fold.acoustic_validation) for fold in loaded)
        assert sum(map(sum, result.confusion)) == validated


@pytest.mark.parametrize("until", [1, 3, 5])
def test_what_a_dead_worker_left_goes_on_to_the_last_bit(
    until: int,
    folds: WorkerData,
    whole: tuple[Path, dict[int, EpochResult]],
    tmp_path: Path,
) -> None:
    first = run(folds, tmp_path, until=until)
    rest = run(folds, tmp_path, after=len(first))
    assert same({**first, **rest}) == same(whole[1])
    assert_equal(tmp_path, whole[0])


def test_unreported_epochs_of_folds_are_reported(
    folds: WorkerData, whole: tuple[Path, dict[int, EpochResult]]
) -> None:
    config = folds.run_config(PARAMS, "a trial")
    checkpoint, unreported = load_resume_point(whole[0], 4, config)
    assert isinstance(checkpoint, FoldsCheckpoint) and checkpoint.epoch == EPOCHS
    assert [result.epoch for result in unreported] == [5, 6]


def test_a_group_of_trials_with_folds(
    folds: WorkerData, whole: tuple[Path, dict[int, EpochResult]], tmp_path: Path
) -> None:
    """In two assignments, the second one begun anew from the disk."""
    own = [{}, {"alpha": 0.1}]
    heard: dict[int, dict[int, EpochResult]] = {0: {}, 1: {}}

    def trials(after: int, until: int) -> list[TrialContext]:
        made = []
        for number, params in enumerate(own):
            folder = tmp_path / str(number)
            folder.mkdir(exist_ok=True)
            made.append(TrialContext(number, {**PARAMS, **params}, after, until, folder=folder))
        return made

    def report(results: dict[int, EpochResult], failed: dict[int, str]) -> None:
        assert not failed
        for number, result in results.items():
            heard[number][result.epoch] = result

    together = make_group_trainer(folds)
    together(trials(0, 2), report)
    assert [list(results) for results in heard.values()] == [[1, 2], [1, 2]]
    together(trials(2, EPOCHS), report)
    alone: dict[int, EpochResult] = {}
    (tmp_path / "alone").mkdir()
    single = TrialContext(1, {**PARAMS, **own[1]}, 0, EPOCHS, folder=tmp_path / "alone")
    make_trainer(folds)(single, lambda result: alone.update({result.epoch: result}))
    for ours, theirs in ((heard[0], whole[1]), (heard[1], alone)):
        assert list(ours) == list(theirs) == list(range(1, EPOCHS + 1))
        for epoch, result in ours.items():
            assert result.value == pytest.approx(theirs[epoch].value, abs=1e-5)


def test_the_splits_are_the_study_s(folds: WorkerData) -> None:
    from search.worker.data import _open_task

    config = folds.run_config(PARAMS, "a trial")
    splits = fold_splits(_open_task(folds, print), folds.split_config)
    for fold, division in zip(load_data(folds, config, print), splits, strict=True):
        assert fold.acoustic_validation.tolist() == division.acoustic_validation.tolist()
        assert fold.acoustic_train.tolist() == division.acoustic_train.tolist()
