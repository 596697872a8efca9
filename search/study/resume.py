"""Where a study resumes after its driver ended: `resume_trials`, with the trials that Optuna still
has RUNNING. search/study/open.py opens the study by its name; search/config/resume_options.py has
the options that it was started with.

Three records of a trial may differ, since each may be written before the other when a driver or a
worker dies. They are reconciled so, epoch by epoch:

- Optuna's storage is the truth about which epochs count, and has each of them once.
- The trial's epoch log (search/worker/trial_folder.py) has the whole report of each epoch, also of
  those that a worker finished but never reported to a driver.
- The checkpoint says from where training goes on. Logged epochs up to it that were not reported
  are reported now (`unreported_epochs`); later ones are trained again, to the same values.

The trial controller asks the pruner about each of these epochs, ends the trial or queues it for a
worker, which finds its resume point by the same rule (search/worker/training.py).
"""

from collections.abc import Callable
from pathlib import Path

from fdan.errors import FdanError
from search.study.active_trials import ActiveTrial
from search.study.status import running_trials
from search.study.trial_controller import TrialController
from search.worker.data import WorkerData
from search.worker.messages import EpochResult
from search.worker.training import load_resume_point
from search.worker.trial_folder import read_epoch_log, trial_folder


def resume_trials(
    controller: TrialController, folder: Path, noun: str, notify: Callable[[str], None]
) -> None:
    """Resume the trials that the last driver left.

    Args:
        controller: Controller that resumes each of them.
        folder: Folder of the study, or of its confirming runs, with the trials' logs.
        noun: Word for a trial in messages.
        notify: Function that shows the user a line.
    """
    running = running_trials(controller.writer.study)
    if running:
        numbers = ", ".join(str(trial.number) for trial in running)
        notify(f"going on with the {noun}s that were under way: {numbers}")
    for trial in running:
        controller.resume(trial, read_epoch_log(trial_folder(folder, trial.number)))


def unreported_epochs(data: WorkerData, folder: Path, trial: ActiveTrial) -> list[EpochResult]:
    """Epochs that a trial's workers saved but never reported to the driver. The trial's next worker
    would report them first.

    Args:
        data: Data of the study.
        folder: Folder of the study, or of its confirming runs.
        trial: The trial, with the last epoch that the driver knows.
    """
    try:
        run = data.run_config(trial.params, f"trial {trial.number}")
        return load_resume_point(trial_folder(folder, trial.number), trial.epoch, run)[1]
    except (FdanError, OSError):  # the next worker will raise it again
        return []
