"""From a command line to a finished, tracked study."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from fdan import arguments as shared
from fdan.errors import FdanError
from fdan.listed import listed_task
from fdan.origin import origin
from fdan.run_config import RunConfig
from fdan.split import Split, SplitConfig, describe, split
from fdan.task import Task
from fdan.terminal import Preparing, unreadable
from fdan.training_data import TrainingData
from search import (
    driver,
    figures,
    kept,
    plan,
    pruners,
    running,
    samplers,
    storage,
    study,
    trial,
    yardstick,
)
from search.plan import Plan
from search.provenance import parameters, tags
from search.summary import summary
from search.tracked import Tracked
from tracking.tracker import Tracker

EXPERIMENT = "fdan-search"
"""MLflow's experiment, which holds all studies."""

_DRAIN_S = 60.0
"""How long the end waits for MLflow."""


def run(resolved: Plan) -> int:
    """Run the study that a command line asks for, or print its plan; returns the exit code.

    0: the study has what it was asked for, or its time is up; 1: no trial of it is complete;
    130: Ctrl-C. A user's mistake is an FdanError.
    """
    began = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if resolved.arguments.dry_run:
        return _dry_run(resolved)
    driver.check_address(resolved.address)
    console = Console(stderr=True)
    with Preparing(console) as tell:
        task, parts = shared.open_task(resolved.arguments, resolved.settings, tell)
    for line in unreadable(task):
        console.print(line, style="yellow", highlight=False, markup=False)
    url, name = resolved.arguments.storage, resolved.name(task)
    folder, identity = resolved.runs / name, resolved.identity(task.fingerprint)
    place = "journal" if url is None else storage.shown(url)
    study.check_folder(folder, name, place, identity)
    with study.driving(folder, name), storage.failing_in_words(url):
        work = _work(resolved, task)
        bar = None
        if resolved.address is None:
            with Preparing(console) as tell:
                bar = _load(resolved, task, parts, work, tell)
        store = storage.open_storage(url, folder)
        opened = study.open_study(
            name,
            store,
            place,
            folder,
            identity,
            samplers.make(
                resolved.arguments.sampler,
                resolved.space,
                resolved.seed,
                study.stored_trials(name, store),
            ),
            pruners.make(resolved.arguments.pruner, resolved.epochs),
            resolved.space,
        )
        words = [storage.shown(word) for word in (*resolved.before, *resolved.typed)]
        study.remember(folder, resolved.trials, words)
        if resolved.before:
            console.print(
                f"study {name}, as before: {shlex.join(resolved.before)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        return _search(resolved, opened, task, parts, work, bar, folder, began, console)


def _dry_run(resolved: Plan) -> int:
    demo = shared.demo_folder(resolved.runs)
    sources = shared.sources(resolved.arguments)
    task = listed_task(
        sources, plan.preparation(resolved.settings), absent_demo=None if demo.exists() else demo
    )
    parts = split(task, SplitConfig.from_mapping(resolved.settings.of(SplitConfig)))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    plan.show(resolved, task, describe(task, parts), console)
    return 0


def _work(resolved: Plan, task: Task) -> trial.Work:
    return trial.Work(
        acoustic=tuple(store.folder for store in task.acoustic),
        visual=tuple(store.folder for store in task.visual),
        split=resolved.settings.of(SplitConfig),
        fixed=resolved.fixed,
        device=resolved.device,
        gpus=resolved.each.gpus,
        cache=resolved.runs / "features",
    )


def _load(
    resolved: Plan, task: Task, parts: Split, work: trial.Work, tell: Preparing
) -> float | None:
    """Before any trial starts: weights that cannot be had end the search in one line, and frozen
    features are computed once with all cores. Returns the baseline that the search has to beat."""
    from fdan.backbones import find_weights

    run = RunConfig.from_mapping(resolved.settings.run)
    if run.model.tuning == "full":
        find_weights(run.model.backbone, run.model.weights)
        return None
    return yardstick.baseline(_data(run, task, parts, work, tell.features))


def _data(
    run: RunConfig,
    task: Task,
    parts: Split,
    work: trial.Work,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """What trials train on, in this process."""
    from fdan.runtime import choose_device
    from fdan.training_data import load

    device = choose_device("cuda:0" if work.device == "cuda" else "cpu")
    return load(task, parts, run, device, work.cache, progress)


def _search(
    resolved: Plan,
    opened: optuna.Study,
    task: Task,
    parts: Split,
    work: trial.Work,
    bar: float | None,
    folder: Path,
    began: float,
    console: Console,
) -> int:
    arguments, name = resolved.arguments, opened.study_name
    stop = driver.Stop(arguments.time_budget)
    with (
        Tracker(folder / "spool", resolved.tracking_uri, EXPERIMENT) as tracker,
        driver.signals(stop, lambda text: console.print(text, style="bold yellow")),
        _closing(tracker),
    ):
        of_runs = tags(resolved, task)
        tracker.open_study(name, parameters(resolved, task), of_runs)
        if bar is not None:
            tracker.study_metrics(0, {"baseline_uar": bar})
            console.print(
                "to beat: logistic regression on the same frozen speech features and split,"
                f" validation UAR {bar:.4f}",
                highlight=False,
                soft_wrap=True,
            )
        best = study.best(opened)
        tracked = Tracked(
            tracker,
            resolved.fixed,
            of_runs,
            sum(study.counts(opened).values()),
            None if best is None else best.value,
        )
        trials = opened.get_trials(deepcopy=False)
        tracked.catch_up(trials, folder)
        kept.sweep(folder, trials, best)
        left = max(0, resolved.trials - study.stored_trials(name, opened._storage))
        if left or study.under_way(opened):
            running.run(resolved, opened, work, tracked, stop, left, folder, console)
        else:
            console.print(
                f"study {name} has its {resolved.trials} trials already: nothing to run"
                f" (--trials {resolved.trials + 20} extends it)",
                highlight=False,
            )
        tracked.finish()
        best = study.best(opened)
        asked = arguments.score_test and best is not None and not stop.reason
        if asked and best is not None and yardstick.tested(opened) is None:
            _score_test(opened, best, task, parts, work, folder)
        _record_test(opened, tracker)
        _finish(resolved, opened, task, best, folder, tracker, stop, console)
        page = tracker.page
    took = time.monotonic() - began
    print(summary(opened, bar, folder, stop.reason, resolved.tracking_uri, page, took))
    return stop.code or (0 if best is not None else 1)


@contextlib.contextmanager
def _closing(tracker: Tracker) -> Iterator[None]:
    """What ends the study ends its parent run, which would otherwise look as if it were running."""
    try:
        yield
    except BaseException as error:
        # A spool that cannot take this either must not hide the cause.
        with contextlib.suppress(FdanError):
            tracker.close_study("FAIL", " ".join(str(error).split()) or type(error).__name__)
            tracker.drain(10.0)
        raise


def _finish(
    resolved: Plan,
    opened: optuna.Study,
    task: Task,
    best: FrozenTrial | None,
    folder: Path,
    tracker: Tracker,
    stop: driver.Stop,
    console: Console,
) -> None:
    """Figures, the best model, and the end of the parent run."""
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(console.status("writing figures and the best model"))
        for file in figures.write(opened, folder / "figures"):
            tracker.artifact(None, file, "study")
        if best is not None:
            _best_model(resolved, task, best, folder)
        done = sum(study.counts(opened).values())
        whole = done >= resolved.trials
        tracker.close_study(
            "COMPLETE" if whole else "PAUSED",
            f"{done} of {resolved.trials} trials" + (f": {stop.reason}" if stop.reason else ""),
        )
        if not tracker.drain(_DRAIN_S):
            console.print(
                f"{tracker.unsent} records wait for MLflow ({tracker.away_reason or 'slow'}); they"
                f" are safe: python -m tracking flush {folder}",
                style="yellow",
                highlight=False,
            )


def _best_model(resolved: Plan, task: Task, best: FrozenTrial, folder: Path) -> None:
    """<study>/best: the best trial's model."""
    from fdan.checkpoint import Checkpoint
    from fdan.model_folder import write_model

    checkpoint = trial.folder_of(folder, best.number) / trial.CHECKPOINT
    config = SplitConfig.from_mapping(resolved.settings.of(SplitConfig))
    facts = {**origin(task, config), "study": folder.name, "trial": best.number}
    write_model(folder / "best", Checkpoint.load(checkpoint), facts)


def _score_test(
    opened: optuna.Study,
    best: FrozenTrial,
    task: Task,
    parts: Split,
    work: trial.Work,
    folder: Path,
) -> None:
    """The only place of a search that looks at the test part: after the last trial."""
    from fdan.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(trial.folder_of(folder, best.number) / trial.CHECKPOINT)
    data = _data(checkpoint.run, task, parts, work)
    yardstick.score_test(opened, best.number, checkpoint, data, parts)


def _record_test(opened: optuna.Study, tracker: Tracker) -> None:
    """What the test part said goes to the parent run. On each start, since a driver may have died
    between asking and recording; the tracker passes over what it has."""
    found = yardstick.tested(opened)
    if found is None:
        return
    measured = {"test/war": found.war, "test/uar": found.uar, "test/wf1": found.wf1}
    if found.baseline_uar is not None:
        measured["test/baseline_uar"] = found.baseline_uar
    tracker.study_metrics(0, measured)
