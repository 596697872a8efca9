"""Logistic regression on frozen speech features, a yardstick."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.metrics import Ints


def fit_logistic_regression(
    features: npt.NDArray[np.float32], labels: Ints
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    """Fit a regression on standardised features, else with scikit-learn's defaults (L2, C = 1).

    Args:
        features: (N, F) features of the training part.
        labels: (N,) indices into EMOTIONS.

    Returns:
        Function of (n, F) features that gives (n, 7) probabilities.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features, labels)

    def answer(asked: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        probabilities = np.zeros((len(asked), len(EMOTIONS)))
        probabilities[:, model.classes_] = model.predict_proba(asked)
        probabilities /= probabilities.sum(1, keepdims=True)  # it computes in single
        return probabilities

    return answer
