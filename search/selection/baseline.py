"""What a search has to beat: a logistic regression on the same frozen speech features."""

from __future__ import annotations

from fdan.evaluation.baseline import logistic_regression
from fdan.training.batches import Ints
from fdan.training.training_data import TrainingData


def baseline(data: TrainingData, samples: Ints) -> float | None:
    """The regression's UAR on these acoustic samples; None where the backbones are trained, so that
    there are no features yet."""
    if data.acoustic.arrays[0].ndim != 2:
        return None
    return logistic_regression(data, samples).uar
