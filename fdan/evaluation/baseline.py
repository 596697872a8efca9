"""The baseline of a search: logistic regression on the same frozen speech features and split."""

import numpy as np

from fdan.metrics import Ints, confusion_matrix, measures
from fdan.model.network import CLASSES
from fdan.training.training_data import TrainingData


def baseline_uar(data: TrainingData, samples: Ints) -> float | None:
    """UAR of a regression fitted to the acoustic training part: on features standardised over it,
    else with scikit-learn's defaults (L2, C = 1).

    Args:
        data: Training data of a run. Where it holds images, to tune backbones, there are no
            features yet: the UAR is None.
        samples: The acoustic samples that are scored.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if data.acoustic.arrays[0].ndim != 2:
        return None
    labels, train = data.acoustic.labels, data.acoustic_train
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(data.acoustic.select(train).cpu().numpy(), labels[train])
    predicted = model.predict(data.acoustic.select(samples).cpu().numpy())
    return measures(confusion_matrix(labels[samples], np.asarray(predicted), CLASSES)).uar
