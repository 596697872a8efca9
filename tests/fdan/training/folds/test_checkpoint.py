"""A folder holds all folds' checkpoints of one epoch, or none."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.errors import WeightsError
from fdan.training import checkpoint
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds.checkpoint import FoldsCheckpoint
from fdan.training.folds.train import train_folds

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def trained(frozen_data: Make, run_of: Make) -> FoldsCheckpoint:
    data = frozen_data()
    speech = np.arange(84)
    folds = [
        replace(
            data,
            acoustic_train=speech[speech % 2 == fold],
            acoustic_validation=speech[speech % 2 != fold],
            fingerprint=f"fold {fold}",
        )
        for fold in range(2)
    ]
    seen: list[FoldsCheckpoint] = []
    train_folds(
        [run_of(epochs=2, layers=1)], folds, lambda epochs, _: seen.append(epochs[0].checkpoint())
    )
    return seen[-1]


def later(trained: FoldsCheckpoint, epoch: int) -> FoldsCheckpoint:
    return FoldsCheckpoint(tuple(replace(fold, epoch=epoch) for fold in trained.folds))


def test_what_is_saved_is_loaded(trained: FoldsCheckpoint, tmp_path: Path) -> None:
    trained.save(tmp_path / "a")
    back = FoldsCheckpoint.load(tmp_path / "a")
    assert (back.epoch, back.history, back.value) == (2, trained.history, trained.value)
    assert len(back.folds) == 2
    for one, other in zip(back.folds, trained.folds, strict=True):
        assert replace(one, tensors={}) == replace(other, tensors={})
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    scores = [fold.history for fold in trained.folds]
    assert trained.history == tuple((a + b) / 2 for a, b in zip(*scores, strict=True))


def _die(trained: FoldsCheckpoint, folder: Path) -> None:
    checkpoint.write_atomic = lambda *_, **__: os._exit(9)
    later(trained, 99).save(folder)


def test_a_writer_that_dies_leaves_all_the_old_folds(
    trained: FoldsCheckpoint, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_die, args=(trained, tmp_path))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 9
    assert FoldsCheckpoint.load(tmp_path).epoch == 2
    later(trained, 3).save(tmp_path)
    assert [fold.epoch for fold in FoldsCheckpoint.load(tmp_path).folds] == [3, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_one_run_and_folds_are_not_mistaken(trained: FoldsCheckpoint, tmp_path: Path) -> None:
    trained.save(tmp_path / "folds")
    trained.folds[0].save(tmp_path / "single")
    with pytest.raises(WeightsError, match="is of folds, no single run's"):
        Checkpoint.load(tmp_path / "folds")
    with pytest.raises(WeightsError, match="is a single run's, not of folds"):
        FoldsCheckpoint.load(tmp_path / "single")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["folds"].pop(),
        lambda facts: facts["folds"][1].pop("history"),
        lambda facts: facts.update(folds=3),
        lambda facts: facts["folds"][0].update(step="many"),
    ],
)
def test_damaged_facts_are_refused(
    change: Callable[[dict[str, Any]], Any], trained: FoldsCheckpoint, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    file = tmp_path / "checkpoint.json"
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match="damaged"):
        FoldsCheckpoint.load(tmp_path)


def test_folds_of_several_epochs_are_no_checkpoint(trained: FoldsCheckpoint) -> None:
    one, two = trained.folds
    with pytest.raises(AssertionError, match="several epochs"):
        FoldsCheckpoint((one, replace(two, epoch=7)))
