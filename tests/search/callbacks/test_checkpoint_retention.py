"""What is kept of trials: the winner's checkpoint, whichever trial ends first."""

from __future__ import annotations

import itertools
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.callbacks.checkpoint_retention import Kept, sweep
from search.study import open as study
from search.study.events import TrialOutcome
from search.worker.messages import Report
from search.worker.trial_folder import CHECKPOINT, trial_folder


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.5, 1.0, 1.0), (0.2, 0.9, 0.3)])
def test_the_checkpoint_that_is_kept_is_the_best_trials(
    values: tuple[float, ...], tmp_path: Path
) -> None:
    """In whatever order they end, equal values included."""
    for order in itertools.permutations(range(len(values))):
        root = tmp_path / "".join(map(str, order))
        opened = optuna.create_study(direction=study.DIRECTION)
        trials = [opened.ask() for _ in values]
        for number in range(len(values)):
            (trial_folder(root, number) / CHECKPOINT).mkdir(parents=True)
        kept = Kept(root, None)
        for number in order:
            opened.tell(trials[number], values[number])
            reports = (Report(1, values[number], {}, ()),)
            kept.on_trial_end(TrialOutcome(number, TrialState.COMPLETE, "", reports))
        best = study.best(opened)
        assert best is not None
        assert [path.parent.name for path in root.glob(f"trials/*/{CHECKPOINT}")] == [
            f"{best.number:04d}"
        ]


def test_what_is_not_complete_needs_no_checkpoint_any_more(tmp_path: Path) -> None:
    kept = Kept(tmp_path, (0, 0.9))
    for number in range(5):
        (trial_folder(tmp_path, number) / CHECKPOINT).mkdir(parents=True)
    high = (Report(1, 0.99),)
    kept.on_worker_lost(1, "the worker died")
    kept.on_trial_pause(2, "stopped by the user")
    kept.on_trial_end(TrialOutcome(3, TrialState.PRUNED, "", high))
    kept.on_trial_end(TrialOutcome(4, TrialState.FAIL, "", high))
    assert left(tmp_path) == [0, 1, 2], "the best one's and those that go on"


def test_a_driver_that_died_swept_nothing(tmp_path: Path) -> None:
    opened = optuna.create_study(direction=study.DIRECTION)
    for number, (value, state) in enumerate(
        [
            (0.5, TrialState.COMPLETE),
            (0.7, TrialState.COMPLETE),
            (None, TrialState.FAIL),
            (None, TrialState.RUNNING),
            (None, TrialState.PRUNED),
        ]
    ):
        trial = opened.ask()
        (trial_folder(tmp_path, number) / CHECKPOINT).mkdir(parents=True)
        (trial_folder(tmp_path, number) / "reports.jsonl").touch()
        if state is not TrialState.RUNNING:
            opened.tell(trial, value, state)
    sweep(tmp_path, opened.get_trials(), study.best(opened))
    assert left(tmp_path) == [1, 3]
    assert len(list(tmp_path.glob("trials/*/reports.jsonl"))) == 5


def left(root: Path) -> list[int]:
    """Trials whose checkpoints are there."""
    return sorted(int(path.parent.name) for path in root.glob(f"trials/*/{CHECKPOINT}"))
