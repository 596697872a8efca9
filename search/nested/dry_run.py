"""`--dry-run` of a nested study: its first outer fold's study as any other, then all of them."""

from fdan.cli.terminal import table_console
from fdan.data.open_task import plan_task
from search.config.spec import StudySpec
from search.formatting import format_duration
from search.nested.plan import NestedPlan, check_same_nested, plan_nested
from search.planning.dry_run import dry_run
from search.study.folder import StudyError
from tracking.result import ResultError, StudyResult


def dry_run_nested(spec: StudySpec, *, estimate_time: bool) -> None:
    """Print what the study of the first outer fold that is left would do, and the outer folds.
    StudyError where the nested study would be refused.

    Args:
        spec: The nested study.
        estimate_time: Whether to time training steps and print how long it would take.
    """
    task = plan_task(spec.data, spec.settings)
    plan = plan_nested(spec, task)
    try:
        check_same_nested(plan, None)
    except StudyError:
        if not spec.device_is_open:
            raise
        # It was begun when the cluster, which is not asked here, had a GPU.
        return dry_run_nested(spec.on_device("cuda"), estimate_time=estimate_time)
    left = [number for number in plan.numbers if not _is_tested(plan, number)]
    estimate = None
    if left:
        budget = spec.study.time_budget
        share = None if budget is None else budget / len(left)
        estimate = dry_run(plan.outer_spec(left[0], share), estimate_time=estimate_time)
    console = table_console()
    trials = len(left) * spec.trials
    console.print(
        f"\n[bold]nested study {plan.name}[/]: {plan.count} outer folds (--nested {plan.nested}),"
        f" {len(left)} left; each is searched by itself, as above: {trials} trials in all",
        soft_wrap=True,
    )
    for line in _outer_folds(plan, left):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if estimate is not None:
        in_all = estimate.features + len(left) * (estimate.pruned + estimate.confirming)
        at_most = estimate.features + len(left) * (estimate.at_most + estimate.confirming)
        console.print(
            f"  all {len(left)} one after another: about {format_duration(in_all)}, at most about"
            f" {format_duration(at_most)}",
            soft_wrap=True,
        )


def _outer_folds(plan: NestedPlan, left: list[int]) -> list[str]:
    lines = [f"  in each, {plan.folds_line}"] if plan.folds_line else []
    for number, split in zip(plan.numbers, plan.splits, strict=True):
        names = ", ".join(f"{name} {samples}" for name, samples in plan.speakers(number).items())
        trained = len(split.acoustic_train) + len(split.acoustic_validation)
        done = "" if number in left else " (tested already)"
        lines.append(f"  outer fold {number} tests {names}; {trained} others are searched on{done}")
    return lines


def _is_tested(plan: NestedPlan, number: int) -> bool:
    try:
        return StudyResult.load(plan.study_folder(number)).test is not None
    except ResultError:
        return False
