"""A support vector machine on MFCC statistics, a yardstick: RBF kernel, its C and class weights
chosen inside the training part, on speakers that it was not fitted to."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.metrics import Ints, confusion_matrix, measures

if TYPE_CHECKING:
    from sklearn.svm import SVC

_C: Final = (0.3, 1.0, 3.0, 10.0, 30.0)
_FOLDS: Final = 5
_MOST: Final = 1500
"""Utterances among which settings are compared: the time grows with the square of their number."""


@dataclass(frozen=True)
class SvmSetting:
    """What is chosen inside the training part."""

    c: float = 1.0
    balanced: bool = False  # classes weigh the same, however many utterances each has

    def machine(self, kernel: str = "rbf") -> "SVC":
        """An SVC with this setting, not fitted yet."""
        from sklearn.svm import SVC

        weight = "balanced" if self.balanced else None
        return SVC(C=self.c, kernel=kernel, gamma="scale", class_weight=weight)


SETTINGS: Final = tuple(SvmSetting(c, balanced) for balanced in (False, True) for c in _C)


def fit_mfcc_svm(
    statistics: npt.NDArray[np.float32], labels: Ints, people: Sequence[str | None]
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    """Fit the machine, with the setting that `choose_setting` finds, on standardised statistics.

    Args:
        statistics: (N, F) statistics of the training part (fdan/media/speech_statistics).
        labels: (N,) indices into EMOTIONS.
        people: Who speaks in each utterance; None where that is not known.

    Returns:
        Function of (n, F) statistics that gives (n, 7) probabilities: 1 for its answer and 0 for
        the others, since a support vector machine has no probabilities.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    setting = choose_setting(statistics, labels, people)
    model = make_pipeline(StandardScaler(), setting.machine())
    model.fit(statistics.astype(np.float64), labels)

    def answer(asked: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        answers: Ints = model.predict(asked.astype(np.float64))
        return np.eye(len(EMOTIONS), dtype=np.float64)[answers]

    return answer


def choose_setting(
    statistics: npt.NDArray[np.float32], labels: Ints, people: Sequence[str | None]
) -> SvmSetting:
    """The setting with the highest UAR over all held-out folds together, of equals the smaller C
    and no weights. Folds hold out whole speakers where all are known, else utterances.

    Args:
        statistics: (N, F) statistics of the training part.
        labels: (N,) indices into EMOTIONS.
        people: Who speaks in each utterance; None where that is not known.
    """
    chosen = _some(len(labels))
    x, y = statistics[chosen].astype(np.float64), labels[chosen]
    confusions = np.zeros((len(SETTINGS), len(EMOTIONS), len(EMOTIONS)), np.int64)
    for train, held_out in folds(y, [people[i] for i in chosen.tolist()]):
        if len(np.unique(y[train])) < 2:
            continue
        inner, outer = _kernels(x[train], x[held_out])
        for place, setting in enumerate(SETTINGS):
            answers = setting.machine("precomputed").fit(inner, y[train]).predict(outer)
            confusions[place] += confusion_matrix(y[held_out], answers, len(EMOTIONS))
    if not confusions.any():  # nobody can be held out
        return SvmSetting()
    return SETTINGS[int(np.argmax([measures(confusion).uar for confusion in confusions]))]


def folds(labels: Ints, people: Sequence[str | None]) -> Iterator[tuple[Ints, Ints]]:
    """Numbers of the utterances that are trained on, and of those that are held out: at most five
    times, the same each time; nothing where no utterance can be held out.

    Args:
        labels: (N,) indices into EMOTIONS.
        people: Who speaks in each utterance; None where that is not known.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    by_speaker = None not in people and len(set(people)) > 1
    count = min(_FOLDS, max(Counter(labels.tolist()).values()))
    if by_speaker:
        count = min(count, len(set(people)))
    if count < 2:
        return
    kind = StratifiedGroupKFold if by_speaker else StratifiedKFold
    with warnings.catch_warnings():  # of an emotion with fewer utterances than folds
        warnings.simplefilter("ignore", UserWarning)
        parts = kind(count, shuffle=True, random_state=0).split(
            labels, labels, people if by_speaker else None
        )
        yield from list(parts)


def _some(count: int) -> Ints:
    """The numbers of all utterances, or of _MOST of them, drawn the same each time."""
    if count <= _MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:_MOST])


def _kernels(
    train: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(n, n) and (m, n): what SVC's RBF kernel with gamma "scale" is of standardised statistics,
    once for all settings."""
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    x, other = scaler.transform(train), scaler.transform(held_out)
    gamma = 1 / (x.shape[1] * (x.var() or 1.0))
    return rbf_kernel(x, gamma=gamma), rbf_kernel(other, x, gamma=gamma)
