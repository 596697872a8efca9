"""Values of a result that several sections read."""

from collections.abc import Iterable, Mapping
from dataclasses import fields as fields_of

from fdan.run_config import RunConfig
from tracking.report.formatting import is_number, setting
from tracking.result import (
    SEPARATED,
    UNFINISHED,
    Confirmation,
    ParameterValue,
    StudyResult,
    TestScore,
    TrialRecord,
    YardstickUar,
)
from tracking.tags import COMPLETE


def complete(result: StudyResult) -> list[TrialRecord]:
    """Complete trials with a value, the best first, of equals the earlier one."""
    trials = [trial for trial in in_state(result, COMPLETE) if is_number(trial.value)]
    return sorted(trials, key=lambda trial: (-(trial.value or 0.0), trial.number))


def in_state(result: StudyResult, state: str) -> list[TrialRecord]:
    """Trials by their state.

    Args:
        result: Result of the study.
        state: The name of one of Optuna's.
    """
    return [trial for trial in result.trials if trial.state == state]


def winner(result: StudyResult) -> TrialRecord | None:
    """The confirmed winner's trial, else the best of the search; None where none is complete."""
    if result.confirm is not None:
        number = result.confirm.winner
        return next((trial for trial in result.trials if trial.number == number), None)
    return next(iter(complete(result)), None)


def confirm_end(confirm: Confirmation) -> str:
    """How far the confirmation's winner is separated from the others, in words; empty where there
    is no other, or an earlier release did not write it."""
    runs, budget, seeds = confirm.runs, confirm.budget, confirm.seeds_each
    if runs is None or budget is None or seeds is None or budget <= seeds:
        return ""
    if confirm.ended == UNFINISHED:
        return f"so far: {runs} of at most {budget} runs are done"
    if confirm.ended == SEPARATED:
        return (
            f"separated after {runs} of at most {budget} runs: no other setting would come before"
            f" it with {seeds} seeds each (95 %)"
        )
    rivals = [
        str(setting.trial)
        for setting in confirm.settings
        if len(setting.values) >= len(confirm.seeds) and setting.trial != confirm.winner
    ]
    close = f"not separated from trial{'s' * (len(rivals) > 1)} {', '.join(rivals)}"
    what = close if rivals else "no other setting held"
    return f"{what}, with all {len(confirm.seeds)} seeds of each: {runs} of at most {budget} runs"


def winners_test(result: StudyResult) -> TestScore | None:
    """The test score, if it is the winner's: another setting, or another run of the same one, may
    have won since."""
    test, best = result.test, winner(result)
    if test is None or best is None:
        return None
    run = None if result.confirm is None else result.confirm.run
    return test if (test.trial, test.run) == (best.number, run) else None


def yardsticks(result: StudyResult) -> tuple[YardstickUar, ...]:
    """What the yardsticks reach on the validation part. Earlier releases had one."""
    regression = result.baseline
    if not result.yardsticks and is_number(regression):
        return (YardstickUar("logistic_regression", "logistic regression", regression),)
    return tuple(y for y in result.yardsticks if is_number(y.uar))


def reached(trial: TrialRecord) -> float | None:
    """A trial's value, else the last that it reported before it was stopped."""
    if is_number(trial.value):
        return float(trial.value)
    return next((float(value) for _, value in reversed(trial.values) if is_number(value)), None)


def settings(params: Mapping[str, ParameterValue], names: Iterable[str]) -> str:
    """A trial's settings in a line.

    Args:
        params: Settings of the trial.
        names: Names of the settings, in the order in which they are shown.

    >>> settings({"lr": 0.01, "layers": 2}, ["layers", "ratio", "lr"])
    'layers 2, lr 0.01'
    """
    return ", ".join(f"{name} {setting(params[name])}" for name in names if name in params)


def explained(name: str) -> str:
    """A setting's help in the training command; empty for other settings."""
    run = RunConfig()
    fields = (*fields_of(run.model), *fields_of(run.kernel), *fields_of(run.training))
    return next((str(field.metadata["help"]) for field in fields if field.name == name), "")
