"""Yardsticks: simple systems that hear the same speech, are fitted to the same training part and
are asked about the same utterances as a search's winner, which is worth its trials only if it is
better than they are.

A further one is an entry of YARDSTICKS: whatever measures, stores, shows and asks them goes over
that list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.evaluation.logistic_regression import fit_logistic_regression
from fdan.evaluation.mfcc_svm import fit_mfcc_svm
from fdan.evaluation.predictions import Predictions, speech_predictions
from fdan.metrics import Ints

if TYPE_CHECKING:
    from fdan.data.split import Split
    from fdan.data.task import Task
    from fdan.run_config import RunConfig
    from fdan.training.training_data import TrainingData

LOGISTIC_REGRESSION: Final = "logistic_regression"
MFCC_SVM: Final = "mfcc_svm"
SPEECH_ALONE: Final = "speech_alone"

Answer = Callable[[Ints], npt.NDArray[np.float64]]
"""(n,) numbers of acoustic samples to (n, 7) probabilities"""


@dataclass(frozen=True)
class YardstickData:
    """What yardsticks learn from."""

    task: Task
    split: Split
    speech: npt.NDArray[np.float32] | None
    """(N, F) frozen features of all acoustic samples; None where nobody computed them here"""
    features: TrainingData | None = None
    """what the winner was trained on, where that is frozen features"""
    recipe: RunConfig | None = None
    """the winner's; None where there is none yet"""

    @property
    def problem(self) -> str:
        """Why nothing can be fitted to the training part, in words; empty where it can."""
        labels = self.task.samples("acoustic").labels[self.split.acoustic_train]
        return "" if len(np.unique(labels)) > 1 else "its training part has one emotion"


class Yardstick(Protocol):
    """A simple system. Its fit is the same each time for the same data."""

    @property
    def name(self) -> str:
        """Its name in files and in MLflow: letters and underscores."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def follows_winner(self) -> bool:
        """Whether it needs the winner's recipe, and so comes after the search only."""

    def missing(self, data: YardstickData) -> str:
        """Why it cannot be measured on these data, in words; empty where it can."""

    def fit(self, data: YardstickData) -> Answer:
        """Fit it to the training part, and to nothing else; returns what answers."""


@dataclass(frozen=True)
class _LogisticRegression:
    name: str = LOGISTIC_REGRESSION
    title: str = "logistic regression"
    follows_winner: bool = False

    def missing(self, data: YardstickData) -> str:
        return "there are no frozen features here" if data.speech is None else data.problem

    def fit(self, data: YardstickData) -> Answer:
        assert data.speech is not None
        speech, train = data.speech, data.split.acoustic_train
        model = fit_logistic_regression(speech[train], data.task.samples("acoustic").labels[train])
        return lambda samples: model(speech[samples])


@dataclass(frozen=True)
class _MfccSvm:
    name: str = MFCC_SVM
    title: str = "SVM on MFCC statistics"
    follows_winner: bool = False

    def missing(self, data: YardstickData) -> str:
        if data.task.statistics is not None:
            return data.problem
        (store, *_) = (s for s in data.task.acoustic if s.statistics is None)
        return (
            f"{store.folder} is of an earlier release and has no statistics of its speech; to"
            " prepare its corpus again adds them"
        )

    def fit(self, data: YardstickData) -> Answer:
        statistics, train = data.task.statistics, data.split.acoustic_train
        assert statistics is not None
        samples = data.task.samples("acoustic")
        people = [samples.people[i] for i in train.tolist()]
        model = fit_mfcc_svm(statistics[train], samples.labels[train], people)
        return lambda numbers: model(statistics[numbers])


@dataclass(frozen=True)
class _SpeechAlone:
    """The winner's recipe without faces, attention and LMMD: what do they add?"""

    name: str = SPEECH_ALONE
    title: str = "speech alone"
    follows_winner: bool = True

    def missing(self, data: YardstickData) -> str:
        if data.recipe is None:
            return "its recipe is the winner's"
        if data.recipe.model.system == "speech":
            return "the winner is speech alone itself"
        if data.features is None:
            return "tuned backbones would be trained once more; --system speech searches it"
        return data.problem

    def fit(self, data: YardstickData) -> Answer:
        import torch

        from fdan.training.train import train
        from fdan.training.validate import predict_logits, restore_network

        assert data.recipe is not None and data.features is not None
        features = data.features
        model = replace(data.recipe.model, system="speech")
        run = replace(data.recipe, model=model)
        last = train(run, features, lambda *_: None, device=features.acoustic.device)
        network = restore_network(last).eval().to(features.acoustic.device)

        def answer(samples: Ints) -> npt.NDArray[np.float64]:
            logits = predict_logits(network, features.acoustic, samples, ())
            probabilities: npt.NDArray[np.float64] = torch.softmax(logits.double(), 1).numpy()
            return probabilities

        return answer


YARDSTICKS: Final[tuple[Yardstick, ...]] = (_LogisticRegression(), _MfccSvm(), _SpeechAlone())


def yardstick_predictions(yardstick: Yardstick, data: YardstickData, part: Ints) -> Predictions:
    """Fit a yardstick and have it answer.

    Args:
        yardstick: One that is not missing on these data.
        data: What it learns from.
        part: (n,) numbers of the acoustic samples that it is asked about.
    """
    probabilities = yardstick.fit(data)(part)
    assert probabilities.shape == (len(part), len(EMOTIONS))
    return speech_predictions(data.task, part, probabilities)
