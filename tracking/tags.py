"""Every MLflow name of a study, once: which tags a run gets, how runs are named and found again.

A study is a parent run, each of its trials a child run. All tags are text. Besides these, the
versions of a registered model have tags of their own: tracking/promotion/history.py.
"""

from collections.abc import Mapping
from typing import Final

# Tags of every run of a study. The tracker sets them.
STUDY: Final = "fdan.study"  # the study's name
STUDY_ID: Final = "fdan.study_id"  # made once: two studies of one name stay two on a server
TRIAL: Final = "fdan.trial"  # the run's key within its study, see `run_key`
STAGE: Final = "fdan.stage"  # purpose of the run: STUDY_RUN, SEARCH or CONFIRM
STATE: Final = "fdan.state"  # one of these five: MLflow's status knows no pruned or paused runs
RUNNING: Final = "RUNNING"
COMPLETE: Final = "COMPLETE"
PRUNED: Final = "PRUNED"
FAIL: Final = "FAIL"
PAUSED: Final = "PAUSED"
"""A study's or a trial's state, in files as well; but for PAUSED, the names of Optuna's states."""
REASON: Final = "fdan.reason"  # why the run ended in this state, one sentence; empty while it runs
CHANGED_PREFIX: Final = "fdan.changed."  # with a parameter's name: its value since it was changed
PROBE: Final = "fdan.tracking"  # set to find out whether a run takes anything just now

# Tags of every run of a study: what it was computed from, and on what (search/results/provenance).
TASK: Final = "task"
DATA: Final = "data"  # fingerprint of the data
PROTOCOL: Final = "protocol"  # split of the data
FOLDS: Final = "folds"  # how many folds each trial trains; not where there is one split
OUTER: Final = "outer"  # which outer fold is the test part, such as 2/4; not where none is
NESTED: Final = "fdan.nested"  # name of the nested study whose outer fold is searched
NESTED_ID: Final = "fdan.nested_id"  # that study's STUDY_ID
SEED: Final = "seed"
GIT: Final = "git"  # the commit of the code; a "+" behind it if files differ from the commit
CPU: Final = "cpu"  # name of the driver's processor
THREADS: Final = "threads"  # CPUs of a trial
DEVICE: Final = "device"
VERSION_PREFIX: Final = "version."  # with "python" or a package's name: its version

# Tags of a trial's run (search/callbacks/mlflow.py).
NUMBER: Final = "trial"  # the trial's number within its stage
SEARCHED: Final = "searched"  # names of the parameters that the study searches, comma-separated
CONFIRMS: Final = "confirms"  # number of the search's trial that it repeats with another seed
INTERRUPTIONS: Final = "interruptions"  # number of times another worker resumed the trial
LAST_INTERRUPTION: Final = "last_interruption"  # why, the last time
NODE: Final = "node"  # addresses of the nodes on which the trial trained, in order
EPOCHS: Final = "epochs"  # reported; set when the trial ends, like a tag "value" for its value

CONFIRMATION: Final = "fdan.confirmation"  # of a study's run: how sure its winner is, and the runs

PROMOTION: Final = "promotion"
"""On the winner's run and the study's: whether its model was promoted, and why
(tracking/promotion)."""

PROMOTING_PREFIX: Final = "fdan.promoting."
"""Tag of a registered model: a promotion that is under way (tracking/registry/promotion_lock)."""

# Tags that MLflow gives a meaning.
PARENT_RUN: Final = "mlflow.parentRunId"
NOTE: Final = "mlflow.note.content"  # Markdown, shown as the run's description
USER: Final = "mlflow.user"
SOURCE_NAME: Final = "mlflow.source.name"
SOURCE_TYPE: Final = "mlflow.source.type"

# Metrics. A trial's others are named by what computes them: fdan/training.
VALUE: Final = "value"  # the objective, each epoch
BEST_VALUE: Final = "best_value"  # on the study's run, with the number of ended trials as the step
BASELINE_UAR: Final = "baseline_uar"  # on the study's run: of logistic regression on the same data
TEST_PREFIX: Final = "test/"  # on the study's run: war, uar, wf1, baseline_uar on the test part
YARDSTICK_PREFIX: Final = "yardstick/"
"""On the study's run, with a yardstick's name and /uar: on the validation part; behind TEST_PREFIX
on the test part, with /difference and /p of the winner beside it, too."""
TIME_PREFIX: Final = "time/"  # seconds, which differ from one training to the next

# Stages, and what runs are called.
STUDY_RUN: Final = "study"  # key and stage of a study's own run
SEARCH: Final = "search"  # a stage of a study's trials, which are numbered from 0 in each stage
CONFIRM: Final = "confirm"  # the other stage


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


def run_name(run: str) -> str:
    """The name of a trial's run, as MLflow's pages show it; the study's run has the study's name.

    >>> run_name("7"), run_name("confirm-7")
    ('trial-0007', 'confirm-0007')
    """
    stage, _, number = run.rpartition("-")
    return f"{stage or 'trial'}-{int(number):04d}"


def run_stage(run: str) -> str:
    """The stage in a run's key.

    >>> run_stage("study"), run_stage("7"), run_stage("confirm-7")
    ('study', 'search', 'confirm')
    """
    return SEARCH if run.isdecimal() else run.partition("-")[0]


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
