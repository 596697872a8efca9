"""The table of a study's trials, as CSV."""

from __future__ import annotations

import csv
import io

import optuna
from optuna.trial import TrialState

from search.study.events import REASON


def trials_csv(study: optuna.Study) -> str:
    """One row a trial: number, state, value, epochs, seconds, reason, then its settings."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state is not TrialState.WAITING]
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text)
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
    return text.getvalue()
