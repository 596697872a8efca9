"""The paper's measures (section 3.2), all read off a confusion matrix."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measures:
    """Scores in 0 .. 1. `confusion` counts samples: rows are true, columns predicted classes."""

    war: float
    uar: float
    wf1: float
    confusion: Ints


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> Ints:
    """(C, C) counts; rows are true classes.

    Args:
        truth: (N,) class indices.
        predicted: (N,) class indices.
        classes: C.
    """
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def measures(confusion: Ints) -> Measures:
    """WAR: the share that is right (recall averaged with the classes' sizes as weights). UAR: the
    plain mean of recall over the classes that the truth has. wf1: F1 averaged with the classes'
    sizes as weights; a class never predicted has F1 = 0."""
    hits = np.diag(confusion).astype(np.float64)
    true, predicted = confusion.sum(1), confusion.sum(0)
    present = true > 0
    assert present.any(), "no sample to measure"
    recall = hits[present] / true[present]
    f1 = 2 * hits[present] / (true[present] + predicted[present])
    return Measures(
        war=float(hits.sum() / true.sum()),
        uar=float(recall.mean()),
        wf1=float(f1 @ true[present] / true.sum()),
        confusion=confusion,
    )
