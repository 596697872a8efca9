"""What is kept of trials: the winner's checkpoint, whichever trial ends first."""

from __future__ import annotations

import itertools
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search import study
from search.bridge import Closed
from search.report import Report
from search.tracked import Kept
from search.trial import CHECKPOINT, folder_of


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
            (folder_of(root, number) / CHECKPOINT).mkdir(parents=True)
        kept = Kept(root, None)
        for number in order:
            opened.tell(trials[number], values[number])
            reports = (Report(1, values[number], {}, ()),)
            kept.closed(Closed(number, TrialState.COMPLETE, "", reports))
        best = study.best(opened)
        assert best is not None
        assert [path.parent.name for path in root.glob(f"trials/*/{CHECKPOINT}")] == [
            f"{best.number:04d}"
        ]
