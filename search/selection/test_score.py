"""The test part, asked once: the only place of a search that looks at it, after the last trial."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import optuna

from fdan.data.split import Split
from fdan.data.task import Samples, Task
from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import bootstrap
from fdan.files import sha256_file
from fdan.inference.model_folder import TENSORS, SpeechModel
from search.study.writer import set_study_attribute
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


class ScoredAlready(FdanError):  # noqa: N818
    """The test part was scored, and it was another model's turn."""


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
    score = {name: value for name, value in values.items() if name != "confusion"}
    return Scored(decode(TestScore, score), tuple(map(tuple, values["confusion"])))


def answers(model: SpeechModel, task: Task, parts: Split) -> Predictions:
    """What a model says of the test part, utterance by utterance."""
    samples, chosen = task.samples("acoustic"), parts.acoustic_test
    return Predictions(
        contents=tuple(samples.contents[i] for i in chosen),
        utterances=tuple(samples.utterances[i] for i in chosen),
        speakers=tuple(_speaker(samples, i) for i in chosen),
        truth=samples.labels[chosen],
        probabilities=model.probabilities(task.images("acoustic", chosen)),
    )


def _speaker(samples: Samples, index: int) -> str | None:
    """As a group of the bootstrap: two corpora may call different people the same."""
    speaker = samples.speakers[index]
    several = len(set(samples.corpora)) > 1
    return f"{samples.corpora[index]}/{speaker}" if several and speaker is not None else speaker


def score_model(
    study: optuna.Study,
    folder: Path,
    model: SpeechModel,
    task: Task,
    parts: Split,
    baseline_uar: float | None,
    reason: str | None,
) -> TestScore:
    """Score the model in `folder` on the test part, and write it down: in the study, and utterance
    by utterance beside the model.

    A study asks once: whoever chooses among models by their test scores has no test part left. The
    same model again is no second question. Another one needs a `reason` in words, which is kept
    with its score. Raises ScoredAlready.
    """
    digest, stored = sha256_file(folder / TENSORS), stored_score(study)
    before = None if stored is None else stored.score
    trial, run = int(model.facts["trial"]), model.facts.get("confirm_run")
    if before is not None and before.model_sha256 == digest:
        if not (folder / PREDICTIONS).exists():  # a driver died between the two
            answers(model, task, parts).write(folder / PREDICTIONS)
        return before
    if before is not None and reason is None:
        raise ScoredAlready(
            f"the test part was scored on {before.scored[:10]} for"
            f" {model_name(before.trial, before.run)} (UAR {before.uar:.4f}), and the model is now"
            f" that of {model_name(trial, run)}: whoever asks twice chooses by the test part; if it"
            " must be, say why with --score-again 'REASON', which is kept with the score"
        )
    found = answers(model, task, parts)
    measured, now = found.measures(), datetime.now(UTC).isoformat(timespec="seconds")
    again = () if before is None else before.again
    if before is not None:
        again = (*again, Rescoring(now, reason, measured.uar, before.uar))
    interval = bootstrap(found)
    score = TestScore(
        trial=trial,
        run=run,
        seed=model.run.training.seed,
        scored=now,
        samples=len(found.truth),
        war=measured.war,
        uar=measured.uar,
        wf1=measured.wf1,
        interval=ScoreInterval(
            interval.low, interval.high, interval.level, interval.groups, interval.by
        ),
        per_class={name: decode(ClassScore, one) for name, one in found.per_class().items()},
        per_speaker={name: decode(SpeakerScore, one) for name, one in found.per_speaker().items()},
        baseline_uar=baseline_uar,
        model_sha256=digest,
        again=again,
    )
    facts = {**asdict(score), "confusion": measured.confusion.tolist()}
    set_study_attribute(study, TEST, facts)
    found.write(folder / PREDICTIONS)
    return score


def model_name(trial: int, run: int | None) -> str:
    """A model, by the trial and the confirming run that trained it."""
    return f"trial {trial}" if run is None else f"trial {trial}, confirming run {run}"
