"""`--dry-run`: what a study would do, printed. Nothing is started and no cluster is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fdan.cli.terminal import print_left_out, table_console
from fdan.data.folds import (
    FoldsDefault,
    default_folds,
    fold_splits,
    refit_split,
    validation_speakers,
)
from fdan.data.open_task import plan_task
from fdan.data.split import NO_FOLDS, PartCount, SplitConfig, describe, split
from fdan.data.task import Task
from fdan.machine.cpus import cpu_count
from search.config.folds import decide_folds
from search.config.spec import StudySpec
from search.formatting import format_duration, format_value
from search.optimizer.pruners import describe_decisions
from search.study.folder import STUDY_FILE, StudyError
from search.study.identity import RequestedStudy, check_same_study
from search.study.status import StudyStatus, read_status
from tracking.uri import mask_password

if TYPE_CHECKING:
    from search.planning.estimate import Estimate


def dry_run(spec: StudySpec, *, estimate_time: bool) -> Estimate | None:
    """Print settings, space, split and planned trials. Returns the time estimate, if one was made.
    StudyError where the study would be refused.

    Args:
        spec: The study.
        estimate_time: Whether to time training steps and print how long the study would take.
    """
    task = plan_task(spec.data, spec.settings)
    given = spec
    spec, reason = decide_folds(spec, task)
    divide = refit_split if spec.settings.split.has_folds else split
    division = divide(task, spec.settings.split)
    fold_lines = list(_folds(task, spec.settings.split, reason))  # before anything is printed
    console = table_console()
    try:
        stored = _stored_study(spec, task)
    except StudyError:
        if not spec.device_is_open:
            raise
        # It was begun when the cluster, which is not asked here, had a GPU.
        return dry_run(given.on_device("cuda"), estimate_time=estimate_time)
    parts = describe(task, division)
    console.print(f"[bold]study {spec.name(task)}[/]: {task.name}, {spec.runs / spec.name(task)}")
    for table in (_settings(spec), _space(spec), _split(parts)):
        console.print(table)
    for part in parts:
        if part.speakers:
            speakers = ", ".join(f"{name} {count}" for name, count in part.speakers.items())
            console.print(f"  {part.part}: {speakers}")
    for line in fold_lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        "  (counted from the listing: unreadable files and copies are found when it is prepared)",
        style="dim",
    )
    print_left_out(task, console)
    for line in _plan(spec, stored):
        console.print(line)
    remaining = spec.trials - (0 if stored is None else stored.done)
    if not estimate_time or remaining <= 0:
        return None
    from search.planning.estimate import estimate_study

    with console.status("timing training steps"):
        left = replace(spec, study=replace(spec.study, trials=remaining))
        estimate = estimate_study(left, task)
    estimate.print_to(console)
    return estimate


def _stored_study(spec: StudySpec, task: Task) -> StudyStatus | None:
    """The study that would be continued, if any. Raises StudyError where it would be refused, but
    for other data, which is known only when it is prepared."""
    name, url = spec.name(task), spec.study.storage
    folder = spec.runs / name
    if not (folder / STUDY_FILE).exists():
        return None
    place = "journal" if url is None else mask_password(url)
    check_same_study(RequestedStudy(name, folder, place, spec.identity(None)))
    return read_status(spec.runs, name, url)


def _plan(spec: StudySpec, stored: StudyStatus | None) -> Iterator[str]:
    yield f"\n[bold]planned[/]: {_planned_trials(spec, stored)}"
    if stored is not None and stored.driver:
        yield f"  {stored.driver} runs it: until that ends, another start is refused"
    if spec.cluster is None:
        cpus = f"{cpu_count()} CPU{'s' * (cpu_count() != 1)}"
        yield f"  it may use {cpus} of this machine; a trial takes {spec.per_trial}"
    yield f"  the pruner compares {describe_decisions(spec.search.pruner, spec.epochs)}"
    if spec.resources.group > 1:
        yield f"  a worker trains up to {spec.resources.group} trials of one shape as one"
    if spec.device_is_open:
        yield "  planned for CPUs without asking the cluster: --device cuda plans for GPUs"
    if spec.confirm.runs:
        yield (
            f"  then the best {spec.confirm.count} again with up to {spec.confirm.seeds} fresh"
            f" seeds each: at most {spec.confirm.runs} runs of {spec.epochs} epochs"
        )
    yield "nothing was started (--dry-run)"


def _planned_trials(spec: StudySpec, stored: StudyStatus | None) -> str:
    left, before = spec.trials, ""
    if stored is not None:
        left = max(0, left - stored.done)
        if not left:
            extend = spec.how_to_extend(stored.done)
            return f"the study exists and has {stored.done} trials: no more ({extend})"
        before = f"the study exists and has {stored.done} of {spec.trials} trials: "
    budget = spec.study.time_budget
    limit = f", for at most {format_duration(budget)}" if budget else ""
    return (
        f"{before}{left} {'more' if before else 'trials'} of at most {spec.epochs} epochs"
        f" ({left * spec.epochs} epochs at most), sampler {spec.search.sampler},"
        f" pruner {spec.search.pruner}{limit}"
    )


def _settings(spec: StudySpec) -> Table:
    table = _table("settings that all trials share", "setting", "value", "from")
    for name, value in spec.settings.values.items():
        if name not in spec.space.names:
            source = spec.settings.source(name)
            text = "none" if value is None else format_value(value)
            table.add_row(name, text, source, style="bold" if source == "chosen" else "")
    return table


def _space(spec: StudySpec) -> Table:
    title = f"space {spec.search.space}: {spec.space.description}"
    table = _table(title, "searched", "values")
    for point in range(len(spec.space.enqueue)):
        table.add_column(f"first {point + 1}", justify="right")
    for dimension in spec.space.dimensions:
        firsts = [point.get(dimension.name) for point in spec.space.enqueue]
        cells = ["" if value is None else format_value(value) for value in firsts]
        table.add_row(dimension.name, str(dimension), *cells)
    return table


def _split(parts: list[PartCount]) -> Table:
    table = _table("split, samples", "part")
    for title in (*parts[0].emotions, "all", "speakers"):
        table.add_column(title, justify="right")
    for part in parts:
        counts = [str(count) for count in part.emotions.values()]
        speakers = str(len(part.speakers)) if part.speakers else "unknown"
        table.add_row(part.part, *counts, Text(str(part.total), style="bold"), speakers)
    return table


def _folds(task: Task, config: SplitConfig, reason: str) -> Iterator[str]:
    """The folds, or why there are none. DataError where those that were chosen cannot be had.
    reason: Why they are these, where no option says so."""
    if not config.has_folds:
        usual = FoldsDefault(NO_FOLDS, reason) if reason else default_folds(task, config)
        if usual.folds == NO_FOLDS:
            yield f"  one split: {usual.reason}"
        else:
            yield f"  one split; --folds {usual.folds} says more: {usual.reason}"
        return
    folds = fold_splits(task, config)
    yield f"  {len(folds)} folds (--folds {config.folds}), which a trial trains side by side:"
    if reason:
        yield f"    {reason}"
    for number, fold in enumerate(folds, start=1):
        names = ", ".join(validation_speakers(task, fold))
        yield (
            f"    fold {number} trains on {len(fold.acoustic_train)} and validates on"
            f" {len(fold.acoustic_validation)} of {names}"
        )
    yield "  then the winner's setting once on all of them: that model is scored"


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=None)
