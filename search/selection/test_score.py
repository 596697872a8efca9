"""Scores the test part, once: the only place of a search that looks at it, after the last trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

import optuna

from fdan.data.task import Samples
from fdan.evaluation.baseline import baseline_uar
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import LEVEL, bootstrap
from fdan.files import sha256_file
from fdan.inference.model_folder import TENSORS
from search.selection.winner import ChosenModel, StudyData
from search.study.writer import set_attributes
from tracking.json_types import decode
from tracking.result import (
    PREDICTIONS,
    ClassScore,
    Matrix,
    Rescoring,
    ScoreInterval,
    SpeakerScore,
    TestScore,
)

TEST: Final = "test"
"""The study's user attribute that holds what the test part said, and of which model."""


@dataclass(frozen=True)
class Scored:
    """A model's score on the test part with its confusion matrix, as the study's storage has it."""

    score: TestScore
    confusion: Matrix


def stored_score(study: optuna.Study) -> Scored | None:
    """What the test part said of this study's model; None where it was not scored."""
    values = study.user_attrs.get(TEST)
    if values is None:
        return None
    score = dict(values)
    confusion = score.pop("confusion")
    return Scored(decode(TestScore, score), tuple(map(tuple, confusion)))


def score_test(
    data: StudyData, chosen: ChosenModel, reason: str | None, notify: Callable[[str], None]
) -> None:
    """Score the study's model on the test part, and store the score in the study and the answers
    utterance by utterance beside the model.

    A study asks once: whoever chooses among models by their test scores has no test part left. The
    same model again is no second question. Another one needs a reason in words.

    Args:
        data: The study.
        chosen: Model of the study.
        reason: Why another model is scored than before; stored with the score.
        notify: Function that shows the user a line, here why nothing was scored.
    """
    digest, stored = sha256_file(chosen.folder / TENSORS), stored_score(data.study)
    answers, before = chosen.folder / PREDICTIONS, None if stored is None else stored.score
    if before is not None and before.model_sha256 == digest:
        if not answers.exists():  # a driver died between the two
            _predict(data, chosen).write(answers)
        if reason is not None:
            notify(
                f"the test part was scored for this very model on {before.scored[:10]}: nothing is"
                " scored again, and the reason is not stored"
            )
        return
    if before is not None and reason is None:
        notify(
            f"the test part was scored on {before.scored[:10]} for {model_name(before)}"
            f" (UAR {before.uar:.4f}), and the model is now that of {model_name(chosen)}: whoever"
            " asks twice chooses by the test part; if it must be, say why with"
            " --score-again 'REASON', which is stored with the score"
        )
        return
    predictions = _predict(data, chosen)
    score = _score(data, chosen, predictions, digest)
    if before is not None:
        rescoring = Rescoring(score.scored, reason, score.uar, before.uar)
        score = replace(score, again=(*before.again, rescoring))
    confusion = predictions.measures().confusion.tolist()
    set_attributes(data.study, {TEST: {**asdict(score), "confusion": confusion}})
    predictions.write(answers)


def _predict(data: StudyData, chosen: ChosenModel) -> Predictions:
    """The model's answers on the test part, utterance by utterance."""
    samples, test = data.task.samples("acoustic"), data.split.acoustic_test
    return Predictions(
        contents=tuple(samples.contents[i] for i in test),
        utterances=tuple(samples.utterances[i] for i in test),
        speakers=tuple(_speaker(samples, i) for i in test),
        truth=samples.labels[test],
        probabilities=chosen.model.probabilities(data.task.images("acoustic", test)),
    )


def _speaker(samples: Samples, index: int) -> str | None:
    """The speaker as a group of the bootstrap: two corpora may call different people the same."""
    speaker = samples.speakers[index]
    several = len(set(samples.corpora)) > 1
    return f"{samples.corpora[index]}/{speaker}" if several and speaker is not None else speaker


def _score(
    data: StudyData, chosen: ChosenModel, predictions: Predictions, digest: str
) -> TestScore:
    measured, interval, run = predictions.measures(), bootstrap(predictions), chosen.model.run
    baseline = None
    if run.model.tuning == "frozen":
        baseline = baseline_uar(data.load(run), data.split.acoustic_test)
    per_class, per_speaker = predictions.per_class(), predictions.per_speaker()
    return TestScore(
        trial=chosen.trial,
        run=chosen.run,
        seed=run.training.seed,
        scored=datetime.now(UTC).isoformat(timespec="seconds"),
        samples=len(predictions.truth),
        war=measured.war,
        uar=measured.uar,
        wf1=measured.wf1,
        interval=ScoreInterval(interval.low, interval.high, LEVEL, interval.groups, interval.by),
        per_class={name: decode(ClassScore, row) for name, row in per_class.items()},
        per_speaker={name: decode(SpeakerScore, row) for name, row in per_speaker.items()},
        baseline_uar=baseline,
        model_sha256=digest,
        again=(),
    )


def model_name(model: ChosenModel | TestScore) -> str:
    """Name of a model for the user: its settings' trial, and the confirming run that trained it."""
    trial = f"trial {model.trial}"
    return trial if model.run is None else f"{trial}, confirming run {model.run}"
