"""Every MLflow name of a study, once: which tags a run gets, how runs are named and found again.

A study is a parent run, each of its trials a child run. All tags are text. Besides these, the
versions of a registered model have tags of their own: tracking/promotion/history.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Tags of every run of a study. The tracker sets them.

STUDY: Final = "fdan.study"
"""The study's name."""

STUDY_ID: Final = "fdan.study_id"
"""Made once for a study: two studies of one name stay two on a shared server."""

TRIAL: Final = "fdan.trial"
"""The run's key within its study, see `run_key`."""

STAGE: Final = "fdan.stage"
"""Purpose of the run: STUDY_RUN, SEARCH or CONFIRM."""

STATE: Final = "fdan.state"
"""One of the next five: MLflow's status knows no pruned and no paused runs."""

RUNNING: Final = "RUNNING"
COMPLETE: Final = "COMPLETE"
PRUNED: Final = "PRUNED"
FAIL: Final = "FAIL"
PAUSED: Final = "PAUSED"
"""A study's or a trial's state, in files as well; but for PAUSED, the names of Optuna's states."""

REASON: Final = "fdan.reason"
"""Why the run ended in this state, one sentence; empty while it runs."""

CHANGED_PREFIX: Final = "fdan.changed."
"""With a parameter's name: its value after the study was continued with another one. MLflow never
changes a parameter."""

PROBE: Final = "fdan.tracking"
"""Set to find out whether a run takes anything just now."""

# Tags of every run of a study: what it was computed from, and on what (search/results/provenance).

TASK: Final = "task"
DATA: Final = "data"
"""Fingerprint of the data."""
PROTOCOL: Final = "protocol"
"""Split of the data."""
SEED: Final = "seed"
GIT: Final = "git"
"""The commit of the code; a "+" behind it if files differ from the commit."""
CPU: Final = "cpu"
"""Name of the driver's processor."""
THREADS: Final = "threads"
"""CPUs of a trial."""
DEVICE: Final = "device"
VERSION_PREFIX: Final = "version."
"""With "python" or a package's name: its version."""

# Tags of a trial's run (search/callbacks/mlflow.py).

NUMBER: Final = "trial"
"""The trial's number within its stage."""
SEARCHED: Final = "searched"
"""Names of the parameters that the study searches, comma-separated."""
CONFIRMS: Final = "confirms"
"""Number of the trial of the search that a confirming run repeats with another seed."""
INTERRUPTIONS: Final = "interruptions"
"""Number of times another worker resumed the trial."""
LAST_INTERRUPTION: Final = "last_interruption"
"""Why, the last time."""
NODE: Final = "node"
"""Addresses of the nodes on which the trial trained, in order."""
EPOCHS: Final = "epochs"
"""Epochs that the trial reported; set when it ends, like a tag "value" for its value."""

PROMOTION: Final = "promotion"
"""On the winner's run and the study's: whether its model was promoted, and why
(tracking/promotion)."""

PROMOTING_PREFIX: Final = "fdan.promoting."
"""Tag of a registered model: a promotion that is under way (tracking/registry/promotion_lock)."""

# Tags that MLflow gives a meaning.

PARENT_RUN: Final = "mlflow.parentRunId"
NOTE: Final = "mlflow.note.content"
"""Markdown, shown as the run's description."""
USER: Final = "mlflow.user"
SOURCE_NAME: Final = "mlflow.source.name"
SOURCE_TYPE: Final = "mlflow.source.type"

# Metrics. A trial's others are named by what computes them: fdan/training.

VALUE: Final = "value"
"""The objective, each epoch."""
BEST_VALUE: Final = "best_value"
"""On the study's run, with the number of ended trials as the step."""
BASELINE_UAR: Final = "baseline_uar"
"""On the study's run: UAR of logistic regression on the same data and split."""
TEST_PREFIX: Final = "test/"
"""On the study's run: war, uar, wf1 and baseline_uar of the winner on the test part."""
TIME_PREFIX: Final = "time/"
"""Seconds, which differ from one training to the next."""

# Stages, and what runs are called.

STUDY_RUN: Final = "study"
"""Key and stage of a study's own run."""
SEARCH: Final = "search"
CONFIRM: Final = "confirm"
"""Stages of a study's trials. Each counts its own from 0."""


def run_key(number: int | None, stage: str = SEARCH) -> str:
    """The key of a run within its study, the value of the tag `TRIAL`.

    Args:
        number: Number of the trial within its stage; None for the study's own run.
        stage: SEARCH or CONFIRM.

    >>> run_key(None), run_key(7), run_key(7, CONFIRM)
    ('study', '7', 'confirm-7')
    """
    if number is None:
        return STUDY_RUN
    return str(number) if stage == SEARCH else f"{stage}-{number}"


def run_name(number: int, stage: str = SEARCH) -> str:
    """The name of a trial's run, as MLflow's pages show it; the study's run has the study's name.

    Args:
        number: Number of the trial within its stage.
        stage: SEARCH or CONFIRM.

    >>> run_name(7), run_name(7, CONFIRM)
    ('trial-0007', 'confirm-0007')
    """
    return f"{'trial' if stage == SEARCH else stage}-{number:04d}"


def identity(study_id: str, run: str) -> dict[str, str]:
    """The tags by which a run is found again.

    Args:
        study_id: Value of the tag STUDY_ID.
        run: Key of the run.
    """
    return {STUDY_ID: study_id, TRIAL: run}


def tag_filter(tags: Mapping[str, str]) -> str:
    """MLflow's search expression for runs with these tags.

    >>> tag_filter(identity("3f", "7"))
    "tags.`fdan.study_id` = '3f' and tags.`fdan.trial` = '7'"
    """
    return " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
