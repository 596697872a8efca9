"""The test part, asked once: the only place of a search that looks at it, after the last trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import optuna

from fdan.data.split import Split
from fdan.data.task import Samples, Task
from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import bootstrap
from fdan.inference.model_folder import TENSORS, SpeechModel
from tracking.result import PREDICTIONS, sha256

TEST: Final = "test"
"""The study's user attribute that holds what the test part said, and of which model."""


class ScoredAlready(FdanError):  # noqa: N818
    """The test part was scored, and it was another model's turn."""


@dataclass(frozen=True)
class Tested:
    """What the test part said of a model. `trial` is the search's whose settings it has, `run` and
    `seed` say which confirming run it is (None: the trial itself). The other fields are those of
    `test` in tracking/result.py."""

    trial: int
    run: int | None
    seed: int
    scored: str
    samples: int
    war: float
    uar: float
    wf1: float
    interval: dict[str, Any]
    confusion: list[list[int]]
    per_class: dict[str, dict[str, Any]]
    per_speaker: dict[str, dict[str, Any]]
    baseline_uar: float | None
    model_sha256: str
    again: list[dict[str, Any]]


def tested(study: optuna.Study) -> Tested | None:
    """What the test part said of this study's winner, if it was asked."""
    held: Mapping[str, Any] | None = study.user_attrs.get(TEST)
    return None if held is None else Tested(**held)


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


def score(
    study: optuna.Study,
    folder: Path,
    model: SpeechModel,
    task: Task,
    parts: Split,
    baseline_uar: float | None,
    reason: str | None,
) -> Tested:
    """Score the model in `folder` on the test part, and write it down: in the study, and utterance
    by utterance beside the model.

    A study asks once: whoever chooses among models by their test scores has no test part left. The
    same model again is no second question. Another one needs a `reason` in words, which is kept
    with its score. Raises ScoredAlready.
    """
    digest, before = sha256(folder / TENSORS), tested(study)
    trial, run = int(model.facts["trial"]), model.facts.get("confirm_run")
    if before is not None and before.model_sha256 == digest:
        if not (folder / PREDICTIONS).exists():  # a driver died between the two
            answers(model, task, parts).write(folder / PREDICTIONS)
        return before
    if before is not None and reason is None:
        raise ScoredAlready(
            f"the test part was scored on {before.scored[:10]} for"
            f" {named(before.trial, before.run)} (UAR {before.uar:.4f}), and the model is now that"
            f" of {named(trial, run)}: whoever asks twice chooses by the test part; if it must be,"
            " say why with --score-again 'REASON', which is kept with the score"
        )
    found = answers(model, task, parts)
    measured, now = found.measures(), datetime.now(UTC).isoformat(timespec="seconds")
    again = [] if before is None else list(before.again)
    if before is not None:
        again.append({"when": now, "reason": reason, "uar": measured.uar, "before": before.uar})
    result = Tested(
        trial=trial,
        run=run,
        seed=model.run.training.seed,
        scored=now,
        samples=len(found.truth),
        war=measured.war,
        uar=measured.uar,
        wf1=measured.wf1,
        interval=_interval(found),
        confusion=measured.confusion.tolist(),
        per_class=found.per_class(),
        per_speaker=found.per_speaker(),
        baseline_uar=baseline_uar,
        model_sha256=digest,
        again=again,
    )
    study.set_user_attr(TEST, asdict(result))
    found.write(folder / PREDICTIONS)
    return result


def named(trial: int, run: int | None) -> str:
    """A model, by the trial and the confirming run that trained it."""
    return f"trial {trial}" if run is None else f"trial {trial}, confirming run {run}"


def as_dict(found: Tested) -> dict[str, Any]:
    """For result.json."""
    values = asdict(found)
    del values["confusion"]
    return values


def _interval(found: Predictions) -> dict[str, Any]:
    interval = bootstrap(found)
    return {
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "groups": interval.groups,
        "by": interval.by,
    }
