"""A study in figures: Optuna's own, as HTML files that need nothing else, and a table of trials."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import TrialState

from fdan.files import write_atomic
from search.results.importance import evaluator
from search.study.open import REASON

_TARGET = "validation UAR"


def history(study: optuna.Study) -> Any:
    """The value of each trial and the best so far."""
    return visualization.plot_optimization_history(study, target_name=_TARGET)


def importances(study: optuna.Study) -> Any:
    """How much each hyperparameter says about the value: PED-ANOVA over the complete trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return visualization.plot_param_importances(
            study, evaluator=evaluator(), target_name=_TARGET
        )


def parallel_coordinates(study: optuna.Study) -> Any:
    """Each complete trial as a line through its settings to its value."""
    return visualization.plot_parallel_coordinate(study, target_name=_TARGET)


FIGURES: dict[str, Callable[[optuna.Study], Any]] = {
    "history.html": history,
    "importances.html": importances,
    "parallel_coordinates.html": parallel_coordinates,
}


def write(study: optuna.Study, folder: Path) -> list[Path]:
    """All figures that the study has enough trials for, and trials.csv; returns the files.

    A figure of Optuna's that raises is left out: it must not cost the study its end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [_replace(folder / "trials.csv", trials_csv(study))]
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return files
    for name, draw in FIGURES.items():
        try:
            figure = draw(study)
            # The script is in the file: it opens on a machine without a network.
            text = figure.to_html(include_plotlyjs=True, full_html=True)
        except (ValueError, RuntimeError, ArithmeticError, KeyError):
            continue
        files.append(_replace(folder / name, text))
    return files


def trials_csv(study: optuna.Study) -> str:
    """One row a trial: number, state, value, epochs, seconds, reason, then its settings."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
    names = sorted({name for trial in trials for name in trial.params})
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["trial", "state", "value", "epochs", "seconds", "reason", *names])
    for trial in trials:
        writer.writerow(
            [
                trial.number,
                trial.state.name,
                "" if trial.value is None else trial.value,
                trial.last_step or 0,
                "" if trial.duration is None else round(trial.duration.total_seconds(), 1),
                trial.user_attrs.get(REASON, ""),
                *(trial.params.get(name, "") for name in names),
            ]
        )
    return out.getvalue()


def _replace(path: Path, text: str) -> Path:
    write_atomic(path, text)
    return path
