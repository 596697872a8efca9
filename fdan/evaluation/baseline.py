"""What a search has to beat: logistic regression on the same frozen speech features and split."""

from __future__ import annotations

import numpy as np

from fdan.metrics import Measures, confusion_matrix, measures
from fdan.model.network import CLASSES
from fdan.training.batches import Ints
from fdan.training.training_data import TrainingData


def logistic_regression(data: TrainingData, samples: Ints) -> Measures:
    """Measures on acoustic `samples` of a regression fitted to the acoustic training part.

    Features are standardised over the training part; scikit-learn's defaults otherwise (L2, C = 1).
    `data` holds features, not images.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(_features(data, data.acoustic_train), data.acoustic.labels[data.acoustic_train])
    predicted = np.asarray(model.predict(_features(data, samples)), dtype=np.int64)
    return measures(confusion_matrix(data.acoustic.labels[samples], predicted, CLASSES))


def _features(data: TrainingData, samples: Ints) -> np.ndarray:
    features = data.acoustic.select(samples).cpu().numpy()
    assert features.ndim == 2, "a baseline is fitted to features"
    return np.asarray(features)
