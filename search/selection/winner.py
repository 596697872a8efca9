"""Writes the models of a study: the best trial's, and the confirmed winner's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from fdan.data.provenance import origin
from fdan.inference.model_folder import read_model
from fdan.inference.model_writer import write_model
from fdan.training.checkpoint import Checkpoint
from search.selection.confirm import Setting, confirmation_folder, winning_setting
from search.selection.study_data import ChosenModel, StudyData
from search.study.status import best_trial
from search.worker.trial_folder import CHECKPOINT, trial_folder
from tracking.result import WINNER

BEST = "best"
"""Folder of the best trial's model; the confirmed winner's is WINNER."""


def write_models(data: StudyData, settings: Sequence[Setting]) -> ChosenModel | None:
    """Write the best trial's model and, where settings were confirmed, the winner's.

    Args:
        data: The study.
        settings: Settings that were confirmed, the best mean first.

    Returns:
        The model that the study stands for; None where no trial is complete.
    """
    chosen = None
    if (best := best_trial(data.study)) is not None:
        trained = trial_folder(data.folder, best.number)
        chosen = _write(data, BEST, trained, {"trial": best.number})
    if (winner := winning_setting(settings)) is not None:
        run = winner.median_run
        trained = trial_folder(confirmation_folder(data.folder), run)
        chosen = _write(data, WINNER, trained, {"trial": winner.trial, "confirm_run": run})
    return None if chosen is None else ChosenModel(chosen, read_model(chosen))


def _write(data: StudyData, name: str, trained: Path, facts: Mapping[str, int]) -> Path:
    """Write the model that was trained in a trial's folder, unless it is there already."""
    folder = data.folder / name
    if not _is_written(folder, facts):
        checkpoint = Checkpoint.load(trained / CHECKPOINT)
        shutil.rmtree(folder, ignore_errors=True)  # with the old model's answers on the test part
        source = origin(data.task, data.spec.settings.split)
        write_model(folder, checkpoint, {**source, "study": data.folder.name, **facts})
    return folder


def _is_written(folder: Path, facts: Mapping[str, int]) -> bool:
    try:
        written = read_model(folder).facts
    except Exception:  # absent, damaged or another version's: it is written anew
        return False
    return all(written.get(name) == value for name, value in facts.items())
