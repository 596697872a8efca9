"""What the winner is measured with: a simple baseline beforehand, the test part once at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import optuna

from fdan.baseline import logistic_regression
from fdan.checkpoint import Checkpoint
from fdan.evaluate import score
from fdan.split import Split
from fdan.training_data import TrainingData

TEST: Final = "test"
"""The study's user attribute that holds what the test part said, and of which trial."""


@dataclass(frozen=True)
class Tested:
    """The winner's measures on the test part; the baseline's UAR where features are frozen."""

    trial: int
    samples: int
    war: float
    uar: float
    wf1: float
    baseline_uar: float | None


def baseline(data: TrainingData) -> float | None:
    """Validation UAR of a logistic regression on the speech features; None where the backbones are
    trained, so that there are no features yet."""
    if not _frozen(data):
        return None
    return logistic_regression(data, data.acoustic_validation).uar


def tested(study: optuna.Study) -> Tested | None:
    """What the test part said of this study's winner, if it was asked."""
    held: Mapping[str, Any] | None = study.user_attrs.get(TEST)
    return None if held is None else Tested(**held)


def score_test(
    study: optuna.Study, number: int, checkpoint: Checkpoint, data: TrainingData, parts: Split
) -> Tested:
    """Score trial `number` on the test part and write it down. A study asks once: whoever chooses
    among trials by their test scores has no test part left."""
    assert tested(study) is None
    found = score(checkpoint, data, parts.acoustic_test, data.acoustic.arrays[0].device)
    bar = logistic_regression(data, parts.acoustic_test).uar if _frozen(data) else None
    result = Tested(number, len(parts.acoustic_test), found.war, found.uar, found.wf1, bar)
    study.set_user_attr(TEST, asdict(result))
    return result


def _frozen(data: TrainingData) -> bool:
    return data.acoustic.arrays[0].ndim == 2
