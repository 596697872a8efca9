"""What is kept of trials: the winner's checkpoint, whichever trial ends first."""

from __future__ import annotations

import itertools
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.callbacks.checkpoint_retention import CheckpointRetention
from search.study.events import TrialOutcome
from search.study.status import best_trial
from search.study.writer import DIRECTION
from search.worker.messages import EpochResult
from search.worker.trial_folder import CHECKPOINT, trial_folder


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.5, 1.0, 1.0), (0.2, 0.9, 0.3)])
def test_the_checkpoint_that_is_kept_is_the_best_trials(
    values: tuple[float, ...], tmp_path: Path
) -> None:
    """In whatever order they end, equal values included."""
    for order in itertools.permutations(range(len(values))):
        root = tmp_path / "".join(map(str, order))
        study = optuna.create_study(direction=DIRECTION)
        trials = [study.ask() for _ in values]
        for number in range(len(values)):
            (trial_folder(root, number) / CHECKPOINT).mkdir(parents=True)
        retention = CheckpointRetention(root, study)
        for number in order:
            study.tell(trials[number], values[number])
            reports = (EpochResult(1, values[number], {}, ()),)
            retention.on_trial_end(TrialOutcome(number, TrialState.COMPLETE, "", reports))
        best = best_trial(study)
        assert best is not None
        assert [path.parent.name for path in root.glob(f"trials/*/{CHECKPOINT}")] == [
            f"{best.number:04d}"
        ]


def test_what_is_not_complete_needs_no_checkpoint_any_more(tmp_path: Path) -> None:
    study = optuna.create_study(direction=DIRECTION)
    study.add_trial(optuna.trial.create_trial(value=0.9))
    retention = CheckpointRetention(tmp_path, study)
    for number in range(5):
        (trial_folder(tmp_path, number) / CHECKPOINT).mkdir(parents=True)
    high = (EpochResult(1, 0.99),)
    retention.on_worker_lost(1, "the worker died")
    retention.on_trial_pause(2, "stopped by the user")
    retention.on_trial_end(TrialOutcome(3, TrialState.PRUNED, "", high))
    retention.on_trial_end(TrialOutcome(4, TrialState.FAIL, "", high))
    assert left(tmp_path) == [0, 1, 2], "the best one's and those that go on"


def test_a_driver_that_died_swept_nothing(tmp_path: Path) -> None:
    study = optuna.create_study(direction=DIRECTION)
    for number, (value, state) in enumerate(
        [
            (0.5, TrialState.COMPLETE),
            (0.7, TrialState.COMPLETE),
            (None, TrialState.FAIL),
            (None, TrialState.RUNNING),
            (None, TrialState.PRUNED),
        ]
    ):
        trial = study.ask()
        (trial_folder(tmp_path, number) / CHECKPOINT).mkdir(parents=True)
        (trial_folder(tmp_path, number) / "reports.jsonl").touch()
        if state is not TrialState.RUNNING:
            study.tell(trial, value, state)
    CheckpointRetention(tmp_path, study)
    assert left(tmp_path) == [1, 3]
    assert len(list(tmp_path.glob("trials/*/reports.jsonl"))) == 5


def left(root: Path) -> list[int]:
    """Trials whose checkpoints are there."""
    return sorted(int(path.parent.name) for path in root.glob(f"trials/*/{CHECKPOINT}"))
