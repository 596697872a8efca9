"""Scores the test part, once: the only place of a search that looks at it, after the last trial."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

import optuna

from fdan.evaluation.predictions import Predictions, speech_predictions
from fdan.evaluation.statistics import LEVEL, bootstrap
from fdan.evaluation.yardsticks import LOGISTIC_REGRESSION
from fdan.files import sha256_file
from fdan.inference.model_folder import TENSORS
from search.selection.winner import ChosenModel
from search.selection.yardsticks import score_yardsticks
from search.study.writer import set_attributes
from tracking import result
from tracking.json_types import decode

TEST: Final = "test"  # the study's attribute that holds what the test part said of which model


@dataclass(frozen=True)
class Scored:
    """A model's score on the test part with its confusion matrix, as the study's storage has it."""

    score: result.TestScore
    confusion: result.Matrix


def stored_score(study: optuna.Study) -> Scored | None:
    """What the test part said of this study's model; None where it was not scored."""
    values = study.user_attrs.get(TEST)
    if values is None:
        return None
    score = dict(values)
    confusion = score.pop("confusion")
    return Scored(decode(result.TestScore, score), tuple(map(tuple, confusion)))


def score_test(chosen: ChosenModel, reason: str | None, notify: Callable[[str], None]) -> None:
    """Score the study's model and the yardsticks on the test part, and store the scores in the
    study and the answers utterance by utterance beside the model.

    A study asks once: whoever chooses among models by their test scores has no test part left. The
    same model again is no second question, nor are yardsticks that were not measured yet, by an
    earlier release, say. Another model needs a reason in words.

    Args:
        chosen: Model of the study.
        reason: Why another model is scored than before; stored with the score.
        notify: Function that shows the user a line, here why nothing was scored.
    """
    digest, stored = sha256_file(chosen.folder / TENSORS), stored_score(chosen.data.study)
    answers, before = chosen.folder / result.PREDICTIONS, None if stored is None else stored.score
    if stored is not None and before is not None and before.model_sha256 == digest:
        if not answers.exists():  # a driver died between the two
            _predict(chosen).write(answers)
        yardsticks = score_yardsticks(chosen, Predictions.read(answers), before.yardsticks)
        if yardsticks != before.yardsticks:
            _store(chosen, Scored(replace(before, yardsticks=yardsticks), stored.confusion))
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
    predictions = _predict(chosen)
    score = _score(chosen, predictions, digest)
    if before is not None:
        rescoring = result.Rescoring(score.scored, reason, score.uar, before.uar)
        score = replace(score, again=(*before.again, rescoring))
    _store(chosen, Scored(score, tuple(map(tuple, predictions.confusion.tolist()))))
    predictions.write(answers)


def _store(chosen: ChosenModel, scored: Scored) -> None:
    values = {**asdict(scored.score), "confusion": scored.confusion}
    set_attributes(chosen.data.study, {TEST: values})


def _predict(chosen: ChosenModel) -> Predictions:
    """The model's answers on the test part, utterance by utterance."""
    task, test = chosen.data.task, chosen.data.split.acoustic_test
    probabilities = chosen.model.probabilities(task.images("acoustic", test))
    return speech_predictions(task, test, probabilities)


def _score(chosen: ChosenModel, predictions: Predictions, digest: str) -> result.TestScore:
    measured, interval, run = predictions.measures(), bootstrap(predictions), chosen.model.run
    yardsticks = score_yardsticks(chosen, predictions, ())
    baseline = next((y.uar for y in yardsticks if y.name == LOGISTIC_REGRESSION), None)
    per_class, per_speaker = predictions.per_class(), predictions.per_speaker()
    return result.TestScore(
        trial=chosen.trial,
        run=chosen.run,
        seed=run.training.seed,
        scored=datetime.now(UTC).isoformat(timespec="seconds"),
        samples=len(predictions.truth),
        war=measured.war,
        uar=measured.uar,
        wf1=measured.wf1,
        interval=result.ScoreInterval(
            interval.low, interval.high, LEVEL, interval.groups, interval.by
        ),
        per_class={name: decode(result.ClassScore, row) for name, row in per_class.items()},
        per_speaker={name: decode(result.SpeakerScore, row) for name, row in per_speaker.items()},
        baseline_uar=baseline,
        model_sha256=digest,
        again=(),
        yardsticks=yardsticks,
    )


def model_name(model: ChosenModel | result.TestScore) -> str:
    """Name of a model for the user: its settings' trial, and the confirming run that trained it."""
    trial = f"trial {model.trial}"
    return trial if model.run is None else f"{trial}, confirming run {model.run}"
