"""What a study comes to: the best trial's model, the confirmed winner's, its score on the test
part, and whether everything that must hold of it does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from fdan.data.provenance import origin
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.evaluation.baseline import baseline_uar
from fdan.inference.model_folder import SpeechModel, read_model
from fdan.inference.model_writer import write_model
from fdan.training.checkpoint import Checkpoint
from fdan.training.training_data import TrainingData
from fdan.training.validate import score_checkpoint
from search.config.spec import StudySpec
from search.selection import confirm
from search.selection import test_score as scoring
from search.selection.test_score import ScoredAlready
from search.study.status import best_trial
from search.worker.trial_folder import CHECKPOINT, trial_folder
from tracking.result import WINNER, Check, TestScore

BEST = "best"
"""Folder of the search's best trial's model; the confirmed winner's is WINNER."""

_CHECKED = 64
"""Validation utterances on which a model's folder is held against its checkpoint."""


@dataclass(frozen=True)
class Study:
    """A study whose trials are done, and the data that it ran on."""

    spec: StudySpec
    opened: optuna.Study
    task: Task
    parts: Split
    folder: Path
    load: Callable[[Any], TrainingData]
    """RunConfig -> what such a run trains on, in this process and on the CPU: the driver's node may
    have no GPU, and what promotion asks again must come out the same."""


@dataclass(frozen=True)
class Chosen:
    """The model that a study stands for, as it was read back from its folder."""

    folder: Path
    model: SpeechModel


def models(of: Study, settings: list[confirm.Setting]) -> Chosen | None:
    """Write the best trial's model and, where settings were confirmed, the winner's; returns the
    one that the study stands for, None where no trial is complete."""
    folder = _written(of, settings)
    return None if folder is None else Chosen(folder, read_model(folder))


def _written(of: Study, settings: list[confirm.Setting]) -> Path | None:
    best = best_trial(of.opened)
    if best is not None:
        _write_best(of, best)
    chosen = confirm.winner(settings)
    if chosen is None:
        return None if best is None else of.folder / BEST
    run, folder = chosen.typical, of.folder / WINNER
    facts = {"trial": chosen.trial, "confirm_run": run}
    if not _holds(folder, facts):
        checkpoint = Checkpoint.load(trial_folder(confirm.folder_of(of.folder), run) / CHECKPOINT)
        shutil.rmtree(folder, ignore_errors=True)  # with what the old one said of the test part
        write_model(folder, checkpoint, {**_origin(of), **facts})
    return folder


def score_test(
    of: Study, chosen: Chosen, reason: str | None, say: Callable[[str], None]
) -> TestScore | None:
    """Score the study's model on the test part, once."""
    folder, model = chosen.folder, chosen.model
    bar = None
    if model.run.model.tuning == "frozen":
        bar = baseline_uar(of.load(model.run), of.parts.acoustic_test)
    stored = scoring.stored_score(of.opened)
    before = None if stored is None else stored.score
    try:
        found = scoring.score_model(of.opened, folder, model, of.task, of.parts, bar, reason)
        if before is not None and reason is not None and len(found.again) == len(before.again):
            say(
                f"the test part was scored for this very model on {found.scored[:10]}: nothing is"
                " asked again, and the reason is not kept"
            )
        return found
    except ScoredAlready as refused:
        say(str(refused))
        return before


def checks(of: Study, model: SpeechModel, settings: list[confirm.Setting]) -> tuple[Check, ...]:
    """Invariants of the model that the study stands for."""
    return (
        _speakers_apart(of),
        _recordings_apart(of),
        _values_agree(of, model, settings),
        _same_answers(of, model, settings),
    )


def trial_of(of: Study, model: SpeechModel) -> Path:
    """Folder of the trial, or confirming run, whose model this is."""
    run, number = model.facts.get("confirm_run"), int(model.facts["trial"])
    if run is None:
        return trial_folder(of.folder, number)
    return trial_folder(confirm.folder_of(of.folder), int(run))


def checkpoint_of(of: Study, model: SpeechModel) -> Checkpoint:
    """What a model's folder was made of."""
    return Checkpoint.load(trial_of(of, model) / CHECKPOINT)


def _write_best(of: Study, best: FrozenTrial) -> None:
    folder = of.folder / BEST
    if not _holds(folder, {"trial": best.number}):
        checkpoint = Checkpoint.load(trial_folder(of.folder, best.number) / CHECKPOINT)
        shutil.rmtree(folder, ignore_errors=True)  # with what the old one said of the test part
        write_model(folder, checkpoint, {**_origin(of), "trial": best.number})


def _holds(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether the folder is this trial's model already."""
    try:
        found = read_model(folder).facts
    except Exception:
        return False
    return all(found.get(name) == value for name, value in facts.items())


def _origin(of: Study) -> dict[str, Any]:
    return {**origin(of.task, of.spec.settings.split), "study": of.folder.name}


def _check(name: str, wrong: str, right: str) -> Check:
    return Check(name, ok=not wrong, detail=wrong or right)


def _speakers_apart(of: Study) -> Check:
    name = "speakers of the parts are disjoint"
    protocol = of.spec.settings.values["protocol"]
    if protocol != "speaker":
        return _check(name, "", f"not asked for by protocol {protocol}")
    samples = of.task.samples("acoustic")
    parts = [
        {(samples.corpora[i], samples.speakers[i]) for i in part}
        for part in (of.parts.acoustic_train, of.parts.acoustic_validation, of.parts.acoustic_test)
    ]
    shared = (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2])
    sizes = ", ".join(str(len(part)) for part in parts)
    return _check(
        name,
        f"in several parts: {sorted(map(str, shared))[:3]}" if shared else "",
        f"{sizes} speakers train, validate and test",
    )


def _recordings_apart(of: Study) -> Check:
    contents, parts = of.task.samples("acoustic").contents, of.parts
    test = {contents[i] for i in parts.acoustic_test}
    seen = {contents[i] for i in (*parts.acoustic_train, *parts.acoustic_validation)}
    return _check(
        "no recording of the test part was seen before",
        f"{len(test & seen)} of {len(test)} were" if test & seen else "",
        f"{len(test)} files of the test part, {len(seen)} others",
    )


def _values_agree(of: Study, model: SpeechModel, settings: list[confirm.Setting]) -> Check:
    checkpoint = checkpoint_of(of, model)
    run = model.facts.get("confirm_run")
    if run is None:
        stored = of.opened.get_trials(deepcopy=False)[int(model.facts["trial"])].value
    else:
        stored = next(
            value
            for one in settings
            for number, value in zip(one.runs, one.values, strict=True)
            if number == int(run)
        )
    return _check(
        "the recorded value is the checkpoint's",
        "" if stored == checkpoint.value else f"{stored} there, {checkpoint.value} here",
        f"{checkpoint.value:.4f}, epoch {checkpoint.epoch}",
    )


def _same_answers(of: Study, model: SpeechModel, settings: list[confirm.Setting]) -> Check:
    """The folder reads images, the trainer had them before it, possibly as cached features. Those
    of a GPU are rounded otherwise (convolutions in TF32)."""
    bound = 1e-5 if of.spec.device == "cpu" else 1e-2
    samples = of.parts.acoustic_validation[:_CHECKED]
    trained = score_checkpoint(checkpoint_of(of, model), of.load(model.run), samples)
    answered = model.probabilities(of.task.images("acoustic", samples))
    apart = float(abs(answered - trained.probabilities).max())
    return _check(
        "the model answers as its trainer did",
        "" if apart <= bound else f"probabilities differ by {apart:.1e}",
        f"probabilities of {len(samples)} validation utterances differ by {apart:.0e} at most",
    )
