"""From a command line to a finished, tracked study."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import optuna
from rich.console import Console

from fdan.cli import arguments as shared
from fdan.cli.terminal import Preparing, unreadable
from fdan.corpora.demo.ahead import Ahead
from fdan.data.planned_task import listed_task
from fdan.data.split import Split, SplitConfig, describe, split
from fdan.data.task import Task
from fdan.errors import FdanError
from fdan.run_config import RunConfig
from fdan.training.training_data import TrainingData
from search import config as plan
from search import stages as rounds
from search.callbacks.trial_figures import TrialFigures
from search.cli import resume_arguments as remembered
from search.config import Plan
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.results import figures
from search.results import study_result as outcome
from search.results.provenance import made_from, parameters, tags
from search.results.summary import summary
from search.selection import baseline as yardstick
from search.selection import test_score as scoring
from search.selection import winner as ending
from search.selection.confirm import Setting
from search.study import open as study
from search.study import status, storage
from search.study.stopping import Stop, signals
from search.tune import recovery as running
from search.tune.ray_session import check_address
from search.worker.data import WorkerData
from search.worker.store_sync import publish_stores
from tracking import report
from tracking.promotion.isolated_model import IsolatedModel
from tracking.promotion.promote import PromotionOptions, promote
from tracking.tags import BASELINE_UAR, TEST_PREFIX
from tracking.tracker import Tracker
from tracking.uri import mask_password

EXPERIMENT = "fdan-search"
"""MLflow's experiment, which holds all studies."""

_DRAIN_S = 60.0
"""How long the end waits for MLflow."""


def run(resolved: Plan, demo: Ahead | None = None) -> int:
    """Run the study that a command line asks for, or print its plan; returns the exit code.
    demo: the demo corpus, where it was begun before.

    0: the study has what it was asked for, or its time is up; 1: no trial of it is complete, or its
    winner was to be promoted and was not; 130: Ctrl-C. A user's mistake is an FdanError.
    """
    began = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if resolved.arguments.dry_run or resolved.arguments.estimate:
        return _dry_run(resolved)
    check_address(resolved.cluster)
    name: str | None = resolved.arguments.study
    if name is None:  # its data will say
        return _run(resolved, demo, began)
    folder = resolved.runs / name
    with study.driving(folder, name):
        remembered.begin(folder, resolved.words)
        return _run(resolved, demo, began)


def _run(resolved: Plan, demo: Ahead | None, began: float) -> int:
    console = Console(stderr=True)
    with Preparing(console) as tell:
        task, parts = shared.open_task(resolved.arguments, resolved.settings, tell, demo)
    for line in unreadable(task):
        console.print(line, style="yellow", highlight=False, markup=False)
    url, name = resolved.arguments.storage, resolved.name(task)
    folder, identity = resolved.runs / name, resolved.identity(task.fingerprint)
    place = "journal" if url is None else mask_password(url)
    study.check_folder(folder, name, place, identity)
    named = resolved.arguments.study is not None
    driving = contextlib.nullcontext() if named else study.driving(folder, name)
    with driving, storage.failing_in_words(url):
        work = _work(resolved, task)
        bar = None
        if resolved.cluster is None:
            with Preparing(console) as tell:
                bar = _load(resolved, task, parts, work, tell)
        store = storage.open_storage(url, folder)
        opened = study.open_study(
            name,
            store,
            place,
            folder,
            identity,
            make_sampler(
                resolved.arguments.sampler,
                resolved.space,
                resolved.seed,
                study.stored_trials(name, store),
            ),
            make_pruner(resolved.arguments.pruner, resolved.epochs),
            resolved.space,
        )
        study.remember(folder, resolved.trials, resolved.words)
        if resolved.before:
            console.print(
                f"study {name}, as before: {shlex.join(resolved.before)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        with IsolatedModel() as isolated_model:
            return _search(
                resolved, opened, task, parts, work, bar, folder, began, console, isolated_model
            )


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
    there = _there(resolved, task)
    plan.show(resolved, task, describe(task, parts), console, there)
    left = resolved.trials - (0 if there is None else there.done)
    if resolved.arguments.estimate and left > 0:
        from search.planning import estimate

        rest = resolved.of_trials(left)
        with console.status("timing training steps"):
            found = estimate.estimate(rest, task, parts)
        estimate.show(found, rest, console)
    return 0


def _there(resolved: Plan, task: Task) -> status.Status | None:
    """The study that a command line continues. Raises StudyError where it would be refused, except
    for other data: those are known when they are prepared."""
    name, url = resolved.name(task), resolved.arguments.storage
    folder = resolved.runs / name
    if not (folder / study.OWNER).exists():
        return None
    place = "journal" if url is None else mask_password(url)
    study.check_folder(folder, name, place, resolved.identity(None))
    return status.read(resolved.runs, name, url)


def _work(resolved: Plan, task: Task) -> WorkerData:
    stores = [store.folder for store in (*task.acoustic, *task.visual)]
    return WorkerData(
        acoustic=tuple(store.folder for store in task.acoustic),
        visual=tuple(store.folder for store in task.visual),
        split=resolved.settings.of(SplitConfig),
        fixed=resolved.fixed,
        device=resolved.device,
        cache=(resolved.shared or resolved.runs) / "features",
        fingerprint=task.fingerprint,
        published=None if resolved.shared is None else publish_stores(stores, resolved.shared),
    )


def _load(
    resolved: Plan, task: Task, parts: Split, work: WorkerData, tell: Preparing
) -> float | None:
    """Before any trial starts: weights that cannot be had end the search in one line, and frozen
    features are computed once with all cores. Returns the baseline that the search has to beat."""
    from fdan.model.backbones import find_weights

    run = RunConfig.from_mapping(resolved.settings.run)
    if run.model.tuning == "full":
        find_weights(run.model.backbone, run.model.weights)
        return None
    device = "cuda:0" if work.device == "cuda" else "cpu"
    data = _data(run, task, parts, work, device, tell.features)
    return yardstick.baseline(data, data.acoustic_validation)


def _data(
    run: RunConfig,
    task: Task,
    parts: Split,
    work: WorkerData,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """What trials train on, in this process."""
    from fdan.device import choose_device
    from fdan.training.training_data import load_training_data

    return load_training_data(task, parts, run, choose_device(device), work.cache, progress)


def _search(
    resolved: Plan,
    opened: optuna.Study,
    task: Task,
    parts: Split,
    work: WorkerData,
    bar: float | None,
    folder: Path,
    began: float,
    console: Console,
    isolated_model: IsolatedModel,
) -> int:
    arguments, name = resolved.arguments, opened.study_name
    stop = Stop(arguments.time_budget)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    patience = storage.Patience(arguments.storage, say, stop.due)
    patience.hold(opened)
    with (
        Tracker(folder / "spool", resolved.tracking_uri, EXPERIMENT) as tracker,
        signals(stop, lambda text: console.print(text, style="bold yellow")),
        _closing(tracker),
    ):
        of_runs = tags(resolved, task)
        tracker.open_study(name, parameters(resolved, task), of_runs)
        if bar is not None:
            tracker.study_metrics(0, {BASELINE_UAR: bar})
            say(
                "to beat: logistic regression on the same frozen speech features and split,"
                f" validation UAR {bar:.4f}"
            )
        if resolved.cluster is not None and arguments.device == "auto" and not resolved.each.gpus:
            say(
                "the cluster has no GPU, so the study is planned for its CPUs, and stays so; where"
                " GPU nodes are still to come: --gpus-per-trial 1, on a new --study"
            )
        if resolved.shares_gpus:
            resolved = _sharing(resolved, task, parts, folder, stop, say)
        of = ending.Study(
            resolved, opened, task, parts, folder, lambda run: _data(run, task, parts, work, "cpu")
        )
        with running.ray_for(resolved, folder) as ray, TrialFigures() as drawing:
            way = rounds.Way(
                work,
                ray,
                tracker,
                drawing,
                of_runs,
                made_from(resolved, task),
                stop,
                patience,
                console,
            )
            interruptions = rounds.search(of, way)
            ended, enough = stop.reason, stop.final
            stop.renew()
            settings = rounds.confirming(of, way)
        done = sum(study.counts(opened).values())
        reason = stop.reason or ended
        whole = (done >= resolved.trials or enough) and not stop.reason
        state = "COMPLETE" if whole else "PAUSED"
        if arguments.promote and whole:
            isolated_model.start()
        with contextlib.ExitStack() as stack:
            if console.is_terminal:
                stack.enter_context(console.status("models, figures and report"))
            chosen = ending.models(of, settings)
            _score_test(of, chosen, tracker, stop, say)
            text = f"{done} of {resolved.trials} trials" + (f": {reason}" if reason else "")
            _records(of, settings, chosen, tracker, state, text, bar, interruptions)
            tracker.close_study(state, text)
            if not tracker.drain(_DRAIN_S):
                say(
                    f"{tracker.unsent} records wait for MLflow ({tracker.away_reason or 'slow'});"
                    f" they are safe: python -m tracking flush {folder}"
                )
        page = tracker.page
    verdict = None
    if arguments.promote and state == "COMPLETE" and chosen is not None:
        options = PromotionOptions(uri=resolved.tracking_uri)
        verdict = promote(folder, options, isolated_model=isolated_model, log=say)
    elif arguments.promote:
        say(f"not promoted: the study is not finished ({text})")
    took = time.monotonic() - began
    clip = _clip(of)
    uri = resolved.tracking_uri
    print(summary(opened, bar, folder, reason, uri, page, took, settings, verdict, clip))
    if stop.code:
        return stop.code
    unpromoted = arguments.promote and (verdict is None or not verdict.promoted)
    return 1 if unpromoted or study.best(opened) is None else 0


def _sharing(
    resolved: Plan,
    task: Task,
    parts: Split,
    folder: Path,
    stop: Stop,
    say: Callable[[str], None],
) -> Plan:
    """The plan with the share of a GPU that its trials get."""
    from search.planning import gpu_share

    say("finding out how many trials fit on a GPU")
    share = gpu_share.find(resolved, task, parts, folder, stop)
    if share is None:
        return resolved
    say(f"{int(1 / share)} at a time fit on a GPU: --gpus-per-trial {share:g}")
    return replace(resolved, each=replace(resolved.each, gpus=share))


def _clip(of: ending.Study) -> Path | None:
    """A speech file of the test part to try a model on."""
    store, index = of.task.acoustic[0], int(of.parts.acoustic_test[0])
    for source in shared.sources(of.resolved.arguments):
        file = source.path / (store.files[index] if index < len(store) else store.files[0])
        if source.modality == "acoustic" and file.is_file():
            return file
    return None


def _score_test(
    of: ending.Study,
    chosen: ending.Chosen | None,
    tracker: Tracker,
    stop: Stop,
    say: Callable[[str], None],
) -> None:
    """Ask the test part, if that was asked for and nothing can choose another model any more."""
    arguments = of.resolved.arguments
    wanted = arguments.score_test or arguments.promote or arguments.score_again is not None
    if chosen is not None and wanted and not stop.reason:
        ending.score_test(of, chosen, arguments.score_again, say)
    if (found := scoring.tested(of.opened)) is not None:
        # On each start, since a driver may have died between asking and recording; the tracker
        # passes over what it has.
        measured = {"war": found.war, "uar": found.uar, "wf1": found.wf1}
        if found.baseline_uar is not None:
            measured[BASELINE_UAR] = found.baseline_uar
        tracker.study_metrics(
            len(found.again), {TEST_PREFIX + name: score for name, score in measured.items()}
        )


def _records(
    of: ending.Study,
    settings: list[Setting],
    chosen: ending.Chosen | None,
    tracker: Tracker,
    state: str,
    reason: str,
    bar: float | None,
    interruptions: Callable[[int], int],
) -> None:
    """result.json, the report and the figures, in the study's folder and with its parent run."""
    tracker.drain(_DRAIN_S / 6)  # the page in MLflow is known once it was reached
    outcome.result(
        of,
        settings,
        scoring.tested(of.opened),
        model=None if chosen is None else chosen.model,
        study_id=tracker.study_id,
        experiment=EXPERIMENT,
        page=tracker.page,
        state=state,
        reason=reason,
        baseline=bar,
        interruptions=interruptions,
    ).save(of.folder)
    for file in [
        *report.write(of.folder),
        *figures.write(of.opened, of.folder / "figures"),
    ]:
        tracker.artifact(None, file, "study")


@contextlib.contextmanager
def _closing(tracker: Tracker) -> Iterator[None]:
    """What ends the study ends its parent run, which would otherwise look as if it were running."""
    try:
        yield
    except KeyboardInterrupt:  # the second one: whoever wants out at once
        with contextlib.suppress(FdanError):
            tracker.close_study("PAUSED", "stopped by the user: the same command goes on with it")
            tracker.drain(2.0)
        raise
    except BaseException as error:
        # A spool that cannot take this either must not hide the cause.
        with contextlib.suppress(FdanError):
            tracker.close_study("FAIL", " ".join(str(error).split()) or type(error).__name__)
            tracker.drain(10.0)
        raise
