"""What a study came to, in one file: <runs>/<study>/result.json. The search writes it, promotion
and report read it, and nobody has to open Optuna's storage for that.

Plain JSON throughout; every path in it is absolute, or relative to the study's folder where it says
so. Part of it are facts that only the search knows (importances, t-SNE) and figures draw later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdan.errors import FdanError

RESULT: Final = "result.json"
WINNER: Final = "winner"
"""Folder of the confirmed winner's model, beside RESULT; `test.csv` in it is what it said of the
test part, utterance by utterance."""

PREDICTIONS: Final = "test.csv"
REPORT: Final = "report.html"
"""The study's report, beside RESULT."""
_FORMAT: Final = 2


class ResultError(FdanError):
    """A study's result that is not there, not whole, or of another version."""


@dataclass(frozen=True)
class Result:
    """The fields of result.json, as plain values.

    study, study_id (MLflow's tag fdan.study_id), experiment, task: names.
    state: COMPLETE when all trials that were asked for have ended, or the time budget or the rule
    that was given for the end ended the search; PAUSED else; reason in words.
    wanted: trials asked for; counts: ended ones by Optuna's state.
    written: ISO 8601 time, UTC.
    command: the command line that continues the study.
    tracking_uri: where its runs are, without a password; page: path of the study's page in the UI.
    space: {name: {"type", "low", "high", "log", "choices", ...}}; fixed: settings not searched;
    sampler, pruner: names; epochs: of a trial that is not stopped.
    origin: fdan.data.provenance.origin (task, data = fingerprint, stores, preparation, split).
    parts: [{"part", "modality", "emotions": {name: n}, "speakers": {name: n}}].
    unreadable: [{"path", "reason"}] of all sources.
    baseline: validation UAR of a logistic regression on frozen features; None for tuned ones.
    versions: {"python", "torch", ...}; git: commit of the code, "+" where it was changed.
    cost: {"device": "cpu" | name of the GPU, "trial_seconds", "confirm_seconds", "epochs_trained",
           "epochs_planned" (of all trials that ended, had none been stopped)}.
    trials: [{"number", "state", "reason", "params", "value" (None), "epochs", "seconds",
              "interruptions", "values": [[epoch, value], ...]}], by number.
    importances: {"method", "trials", "enough": bool, "values": {name: {"mean", "low", "high"}}}
    curves: {trial number as text: {metric: [[epoch, value], ...]}} of the top trials.
    embedding: None or {"method": "t-SNE", "part": "validation",
               "points": [{"x", "y", "emotion", "speaker", "modality"}]}
    confusion: {"validation": 7x7 counts or None, "test": 7x7 counts or None}, rows true.
    confirm: None or {"seeds": [..], "settings": [{"trial", "params", "search_value",
             "values": [one a seed], "mean", "low", "high" (95 %, Student; None of one seed),
             "optimism"}] best first,
             "winner": trial number, "run": number of the confirm run whose model is the winner's,
             "seed": of that run}
    test: None or {"trial", "run" (None: the trial itself), "seed" of the model that was scored,
          "scored": ISO time, "samples", "war", "uar", "wf1",
          "interval": {"low", "high", "level", "groups", "by": "speaker" | "utterance"},
          "per_class": {emotion: {"recall", "precision", "samples"}},
          "per_speaker": {name: {"uar", "war", "samples"}}, "baseline_uar" (None),
          "model_sha256": of the model.safetensors that was scored,
          "again": [{"when", "reason", "uar", "before"}] scorings after the first one, each of
          another model and for a reason; the newest is the figure, `before` the one it replaced}
    checks: [{"name", "ok": bool, "detail"}] invariants, looked at when this was written.
    """

    study: str
    study_id: str
    experiment: str
    task: str
    state: str
    reason: str
    wanted: int
    counts: dict[str, int]
    written: str
    command: str
    tracking_uri: str
    page: str | None
    space: dict[str, dict[str, Any]]
    fixed: dict[str, Any]
    sampler: str
    pruner: str
    epochs: int
    origin: dict[str, Any]
    parts: list[dict[str, Any]]
    unreadable: list[dict[str, str]]
    baseline: float | None
    versions: dict[str, str]
    git: str
    cost: dict[str, Any]
    trials: list[dict[str, Any]]
    importances: dict[str, Any]
    curves: dict[str, dict[str, list[list[float]]]]
    embedding: dict[str, Any] | None
    confusion: dict[str, Any]
    confirm: dict[str, Any] | None
    test: dict[str, Any] | None
    checks: list[dict[str, Any]]

    @property
    def data(self) -> str:
        """The data's fingerprint."""
        return str(self.origin["data"])

    def save(self, study: Path) -> Path:
        """Write it into the study's folder, whole or not at all. Raises OSError."""
        file = study / RESULT
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with partial.open("w", encoding="utf-8") as text:
                json.dump({"format": _FORMAT, **dataclasses.asdict(self)}, text, indent=1)
                text.write("\n")
                text.flush()
                os.fsync(text.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
        return file

    @classmethod
    def load(cls, study: Path) -> Result:
        """Raises ResultError, in one line."""
        file = study / RESULT
        if not study.is_dir():
            raise ResultError(f"{study}: no such folder; give a study's folder, such as runs/demo")
        try:
            held: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(held, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            raise ResultError(
                f"{study}: no {RESULT} in it; a search writes it at its end, so run the study's"
                " command again"
            ) from None
        except (OSError, ValueError) as error:
            raise ResultError(f"{file} cannot be read ({error}); run the study again") from None
        names = {field.name for field in dataclasses.fields(cls)}
        if held.get("format") != _FORMAT or held.keys() != names | {"format"}:
            raise ResultError(
                f"{file}: written by another version of fdan-search; run the study's command again"
            )
        return cls(**{name: held[name] for name in names})


def sha256(file: Path) -> str:
    """Of a file's contents, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
