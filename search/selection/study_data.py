"""What selection works on: a study whose trials are done with its data, and the chosen model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna

from fdan.data.split import Split
from fdan.data.task import Task
from fdan.inference.model_folder import SpeechModel
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.training_data import TrainingData
from search.config.spec import StudySpec
from search.selection.confirm import confirmation_folder
from search.worker.trial_folder import CHECKPOINT, trial_folder


@dataclass(frozen=True)
class StudyData:
    """A study and the data that it runs on."""

    spec: StudySpec
    study: optuna.Study
    task: Task
    split: Split
    folder: Path
    load: Callable[[RunConfig], TrainingData]
    """Loads what such a run trains on, in this process and on the CPU: the driver's node may have
    no GPU, and promotion must be able to reproduce the answers."""


@dataclass(frozen=True)
class ChosenModel:
    """The model that a study stands for, read back from its folder."""

    folder: Path
    model: SpeechModel

    @property
    def trial(self) -> int:
        """The search's trial whose settings the model has."""
        return int(self.model.facts["trial"])

    @property
    def run(self) -> int | None:
        """The confirming run that trained the model; None: the trial itself did."""
        run = self.model.facts.get("confirm_run")
        return None if run is None else int(run)

    def trial_folder(self, study_folder: Path) -> Path:
        """Folder of the trial, or confirming run, that trained the model."""
        if self.run is None:
            return trial_folder(study_folder, self.trial)
        return trial_folder(confirmation_folder(study_folder), self.run)

    def checkpoint(self, study_folder: Path) -> Checkpoint:
        """The checkpoint that the model was made of."""
        return Checkpoint.load(self.trial_folder(study_folder) / CHECKPOINT)
