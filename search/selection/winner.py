"""What selection works on: a study whose trials are done, with its data; and the models of a study:
the best trial's, and the confirmed winner's.

Of a study with folds no trial has a model: what it stands for is the setting that won, trained once
on all speakers outside the test part for as many epochs as its folds were.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna

from fdan.data.provenance import origin
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.device import choose_device
from fdan.evaluation.yardsticks import LOGISTIC_REGRESSION
from fdan.inference.model_folder import SpeechModel, read_model
from fdan.inference.model_writer import write_model
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds.checkpoint import load_checkpoint
from fdan.training.training_data import TrainingData, frozen_speech, load_training_data
from search.config.spec import StudySpec
from search.selection.confirm import FOLDER, Setting, winning_setting
from search.selection.refit import REFIT, train_refit
from search.study.status import best_trial
from search.worker.data import WorkerData
from search.worker.trial_folder import CHECKPOINT, trial_folder
from tracking.result import WINNER, YardstickUar

BEST = "best"  # folder of the best trial's model; the confirmed winner's is WINNER


@dataclass(frozen=True)
class StudyData:
    """A study and the data that it runs on."""

    spec: StudySpec
    study: optuna.Study
    task: Task
    split: Split
    folder: Path
    worker_data: WorkerData  # task and split as workers open them
    yardsticks: tuple[YardstickUar, ...]  # validation UARs that the search has to beat
    tags: Mapping[str, Any]  # of every run in MLflow
    folds: tuple[Split, ...] = ()
    """What trials train on, if not on `split`, which is then what the final model trains on."""

    @property
    def baseline_uar(self) -> float | None:
        """Validation UAR of the logistic regression; None where there are no features for it."""
        named = (y.uar for y in self.yardsticks if y.name == LOGISTIC_REGRESSION)
        return next(named, None)

    def load(self, run: RunConfig) -> TrainingData:
        """What such a run trains on, in this process and on the CPU: the driver's node may have no
        GPU, and promotion must be able to reproduce the answers."""
        cpu, cache = choose_device("cpu"), self.worker_data.cache
        return load_training_data(self.task, self.split, run, cpu, cache)

    def load_speech(self, run: RunConfig) -> npt.NDArray[np.float32]:
        """(N, F) frozen features of all speech, by such a run's backbone, as `load` has them."""
        return frozen_speech(self.task, run, choose_device("cpu"), self.worker_data.cache)


@dataclass(frozen=True)
class ChosenModel:
    """The model that a study stands for, read back from its folder."""

    data: StudyData
    folder: Path
    model: SpeechModel
    trained: Path  # folder of the trial, or confirming run, that the model is of
    refit: Path | None = None  # where there are folds, the folder that it was trained in

    @property
    def trial(self) -> int:
        """The search's trial whose settings the model has."""
        return int(self.model.facts["trial"])

    @property
    def run(self) -> int | None:
        """The confirming run that trained the model; None: the trial itself did."""
        run = self.model.facts.get("confirm_run")
        return None if run is None else int(run)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that the model was made of."""
        return Checkpoint.load((self.refit or self.trained) / CHECKPOINT)

    @property
    def value(self) -> float:
        """The value of the trial, or confirming run, by its own checkpoint."""
        return load_checkpoint(self.trained / CHECKPOINT).value


def write_models(
    data: StudyData, settings: Sequence[Setting], notify: Callable[[str], None]
) -> ChosenModel | None:
    """Write the best trial's model and, where settings were confirmed, the winner's; of a study
    with folds the latter alone, if there is one. Returns the one that the study stands for; None
    where no trial is complete.

    Args:
        data: The study.
        settings: Settings that were confirmed, the best mean first.
        notify: Function that shows the user a line.
    """
    chosen, winner = None, winning_setting(settings)
    if (best := best_trial(data.study)) is not None and not (data.folds and winner):
        trained = trial_folder(data.folder, best.number)
        chosen = _write(data, BEST, trained, {"trial": best.number}, notify)
    if winner is not None:
        run = winner.median_run
        trained = trial_folder(data.folder / FOLDER, run)
        facts = {"trial": winner.trial, "confirm_run": run}
        chosen = _write(data, WINNER, trained, facts, notify)
    return chosen


def _write(
    data: StudyData,
    name: str,
    trained: Path,
    facts: Mapping[str, int],
    notify: Callable[[str], None],
) -> ChosenModel:
    """Write the model that was trained in a trial's folder, or is trained now, unless it is written
    already."""
    folder = data.folder / name
    refit = data.folder / REFIT / name / trained.name if data.folds else None
    with contextlib.suppress(Exception):  # absent, damaged or another version's: written anew
        model = read_model(folder)
        if facts.items() <= model.facts.items():
            return ChosenModel(data, folder, model, trained, refit)
    if refit is None:
        checkpoint = Checkpoint.load(trained / CHECKPOINT)
    else:
        checkpoint = train_refit(data, trained, refit, notify)
    shutil.rmtree(folder, ignore_errors=True)  # with the old model's answers on the test part
    source = origin(data.task, data.spec.settings.split)
    write_model(folder, checkpoint, {**source, "study": data.folder.name, **facts})
    return ChosenModel(data, folder, read_model(folder), trained, refit)
