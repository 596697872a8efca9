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

from fdan.cli.terminal import Preparing, unreadable
from fdan.corpora.demo.background import BackgroundDemo
from fdan.data.open_task import open_task
from fdan.data.split import Split, SplitConfig
from fdan.data.task import Task
from fdan.errors import FdanError
from fdan.evaluation.baseline import baseline_uar
from fdan.files import write_atomic
from fdan.run_config import RunConfig
from fdan.training.training_data import TrainingData
from search import stages as rounds
from search.callbacks.trial_figures import TrialFigures
from search.config.options import sections
from search.config.spec import StudySpec
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.results.provenance import made_from, parameters, tags
from search.results.study_result import StudyEnd, study_result
from search.results.summary import SearchEnd, summary
from search.results.trials_table import trials_csv
from search.selection import test_score as scoring
from search.selection import winner as ending
from search.selection.confirm import Setting
from search.study.folder import driver_lock
from search.study.identity import RequestedStudy, check_same_study
from search.study.open import open_study
from search.study.queries import best_trial, count_finished, count_started
from search.study.start_record import record_start, write_begun
from search.study.stopping import StopSignal, stop_on_signals
from search.study.storage import open_storage
from search.study.storage_retry import StorageRetry, translate_storage_errors
from search.tune.autoscaler import cluster_has_gpu
from search.tune.ray_session import check_address
from search.tune.recovery import make_ray_session
from search.worker.data import WorkerData
from search.worker.store_sync import publish_stores
from tracking import report
from tracking.promotion.isolated_model import IsolatedModel
from tracking.promotion.promote import PromotionOptions, promote
from tracking.result import StudyResult
from tracking.tags import BASELINE_UAR, TEST_PREFIX
from tracking.tracker import Tracker
from tracking.uri import mask_password

EXPERIMENT = "fdan-search"
"""MLflow's experiment, which holds all studies."""

_DRAIN_S = 60.0
"""How long the end waits for MLflow."""


def run_command(spec: StudySpec, demo: BackgroundDemo | None = None) -> int:
    """Run the study that a command line asks for; returns the exit code.
    demo: the demo corpus, where it was begun before.

    0: the study has what it was asked for, or its time is up; 1: no trial of it is complete, or its
    winner was to be promoted and was not; 130: Ctrl-C. A user's mistake is an FdanError.
    """
    began = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    check_address(spec.cluster)
    if spec.device_is_open:
        spec = _decide_device(spec)
    name = spec.study.study
    if name is None:  # its data will say
        return _run(spec, demo, began)
    folder = spec.runs / name
    with driver_lock(folder, name):
        write_begun(folder, spec.arguments)
        return _run(spec, demo, began)


def _decide_device(spec: StudySpec) -> StudySpec:
    """Ask the cluster whether it has GPUs."""
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    assert spec.cluster is not None
    if cluster_has_gpu(spec.cluster, say):
        return spec.on_device("cuda")
    say(
        "the cluster has no GPU, so the study is planned for its CPUs, and stays so; where"
        " GPU nodes are still to come: --gpus-per-trial 1, on a new --study"
    )
    return spec.on_device("cpu")


def _run(spec: StudySpec, demo: BackgroundDemo | None, began: float) -> int:
    console = Console(stderr=True)
    with Preparing(console) as tell:
        task, parts = open_task(spec.data, spec.settings, tell, demo)
    for line in unreadable(task):
        console.print(line, style="yellow", highlight=False, markup=False)
    url, name = spec.study.storage, spec.name(task)
    folder = spec.runs / name
    requested = RequestedStudy(
        name,
        folder,
        "journal" if url is None else mask_password(url),
        spec.identity(task.fingerprint),
        spec.space.enqueue,
    )
    check_same_study(requested)
    named = spec.study.study is not None
    driving = contextlib.nullcontext() if named else driver_lock(folder, name)
    with driving, translate_storage_errors(url):
        work = _work(spec, task)
        bar = None
        if spec.cluster is None:
            with Preparing(console) as tell:
                bar = _load(spec, task, parts, work, tell)
        store = open_storage(url, folder)
        opened = open_study(
            requested,
            store,
            make_sampler(
                spec.search.sampler,
                spec.space,
                spec.seed,
                count_started(name, store),
            ),
            make_pruner(spec.search.pruner, spec.epochs),
        )
        record_start(folder, spec.trials, spec.arguments, sections(spec.options))
        if spec.remembered:
            console.print(
                f"study {name}, as before: {shlex.join(spec.remembered)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        with IsolatedModel() as isolated_model:
            return _search(
                spec, opened, task, parts, work, bar, folder, began, console, isolated_model
            )


def _work(spec: StudySpec, task: Task) -> WorkerData:
    stores = [store.folder for store in (*task.acoustic, *task.visual)]
    return WorkerData(
        acoustic=tuple(store.folder for store in task.acoustic),
        visual=tuple(store.folder for store in task.visual),
        split=spec.settings.of(SplitConfig),
        fixed=spec.fixed,
        device=spec.device,
        cache=(spec.shared or spec.runs) / "features",
        fingerprint=task.fingerprint,
        published=None if spec.shared is None else publish_stores(stores, spec.shared),
    )


def _load(
    spec: StudySpec, task: Task, parts: Split, work: WorkerData, tell: Preparing
) -> float | None:
    """Before any trial starts: weights that cannot be had end the search in one line, and frozen
    features are computed once with all cores. Returns the baseline that the search has to beat."""
    from fdan.model.backbones import find_weights

    run = RunConfig.from_mapping(spec.settings.run)
    if run.model.tuning == "full":
        find_weights(run.model.backbone, run.model.weights)
        return None
    device = "cuda:0" if work.device == "cuda" else "cpu"
    data = _data(run, task, parts, work, device, tell.features)
    return baseline_uar(data, data.acoustic_validation)


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
    spec: StudySpec,
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
    name = opened.study_name
    stop = StopSignal(spec.study.time_budget)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    patience = StorageRetry(spec.study.storage, say, stop.due)
    patience.wait_for_connections(opened)
    with (
        Tracker(folder / "spool", spec.tracking_uri, EXPERIMENT) as tracker,
        stop_on_signals(stop, lambda text: console.print(text, style="bold yellow")),
        _closing(tracker),
    ):
        of_runs = tags(spec, task)
        tracker.open_study(name, parameters(spec, task), of_runs)
        if bar is not None:
            tracker.log_study_metrics(0, {BASELINE_UAR: bar})
            say(
                "to beat: logistic regression on the same frozen speech features and split,"
                f" validation UAR {bar:.4f}"
            )
        if spec.gpu_share_is_open:
            spec = _sharing(spec, task, parts, folder, stop, say)
        of = ending.Study(
            spec, opened, task, parts, folder, lambda run: _data(run, task, parts, work, "cpu")
        )
        with make_ray_session(spec, folder) as ray, TrialFigures() as drawing:
            context = rounds.RunContext(
                work,
                ray,
                tracker,
                drawing,
                of_runs,
                made_from(spec, task),
                stop,
                patience,
                console,
            )
            interruptions = rounds.run_search(of, context)
            confirm_stop = stop.for_confirmation()
            patience.stop_due = confirm_stop.due
            settings = rounds.run_confirmation(of, replace(context, stop=confirm_stop))
        done = sum(count_finished(opened).values())
        reason = confirm_stop.reason or stop.reason
        whole = (done >= spec.trials or stop.final) and not confirm_stop.reason
        state = "COMPLETE" if whole else "PAUSED"
        if spec.confirm.promote and whole:
            isolated_model.start()
        with contextlib.ExitStack() as stack:
            if console.is_terminal:
                stack.enter_context(console.status("models, figures and report"))
            chosen = ending.models(of, settings)
            _score_test(of, chosen, tracker, confirm_stop, say)
            text = f"{done} of {spec.trials} trials" + (f": {reason}" if reason else "")
            result = _records(of, settings, chosen, tracker, state, text, bar, interruptions)
            tracker.close_study(state, text)
            if not tracker.drain(_DRAIN_S):
                say(
                    f"{tracker.unsent} records wait for MLflow"
                    f" ({tracker.unavailable_reason or 'slow'});"
                    f" they are safe: python -m tracking flush {folder}"
                )
        page = tracker.page
    verdict = None
    if spec.confirm.promote and state == "COMPLETE" and chosen is not None:
        options = PromotionOptions(uri=spec.tracking_uri)
        verdict = promote(folder, options, isolated_model=isolated_model, log=say)
    elif spec.confirm.promote:
        say(f"not promoted: the study is not finished ({text})")
    end = SearchEnd(
        stopped=reason,
        seconds=time.monotonic() - began,
        tracking_uri=spec.tracking_uri,
        page=page,
        settings=settings,
        verdict=verdict,
        clip=_clip(of),
    )
    print(summary(result, folder, end))
    if stop.code:
        return stop.code
    unpromoted = spec.confirm.promote and (verdict is None or not verdict.promoted)
    return 1 if unpromoted or best_trial(opened) is None else 0


def _sharing(
    spec: StudySpec,
    task: Task,
    parts: Split,
    folder: Path,
    stop: StopSignal,
    say: Callable[[str], None],
) -> StudySpec:
    """The plan with the share of a GPU that its trials get."""
    from search.planning import gpu_share

    say("finding out how many trials fit on a GPU")
    share = gpu_share.find(spec, task, parts, folder, stop)
    if share is None:
        return spec
    say(f"{int(1 / share)} at a time fit on a GPU: --gpus-per-trial {share:g}")
    return spec.with_gpu_share(share)


def _clip(of: ending.Study) -> Path | None:
    """A speech file of the test part to try a model on."""
    store, index = of.task.acoustic[0], int(of.parts.acoustic_test[0])
    for source in of.spec.data.sources:
        file = source.path / (store.files[index] if index < len(store) else store.files[0])
        if source.modality == "acoustic" and file.is_file():
            return file
    return None


def _score_test(
    of: ending.Study,
    chosen: ending.Chosen | None,
    tracker: Tracker,
    stop: StopSignal,
    say: Callable[[str], None],
) -> None:
    """Ask the test part, if that was asked for and nothing can choose another model any more."""
    confirm = of.spec.confirm
    if chosen is not None and confirm.scores_test and not stop.reason:
        ending.score_test(of, chosen, confirm.score_again, say)
    if (stored := scoring.stored_score(of.opened)) is not None:
        found = stored.score
        # On each start, since a driver may have died between asking and recording; the tracker
        # passes over what it has.
        measured = {"war": found.war, "uar": found.uar, "wf1": found.wf1}
        if found.baseline_uar is not None:
            measured[BASELINE_UAR] = found.baseline_uar
        tracker.log_study_metrics(
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
) -> StudyResult:
    """Write result.json, the report and the table of trials, and log them with the study's run."""
    tracker.drain(_DRAIN_S / 6)  # the page in MLflow is known once it was reached
    end = StudyEnd(
        state=state,
        reason=reason,
        baseline=bar,
        study_id=tracker.study_id,
        experiment=EXPERIMENT,
        page=tracker.page,
        interruptions=interruptions,
    )
    result = study_result(of, settings, None if chosen is None else chosen.model, end)
    result.save(of.folder)
    table = of.folder / "figures" / "trials.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(table, trials_csv(of.opened))
    for file in (*report.write(of.folder), table):
        tracker.log_artifact(None, file, "study")
    return result


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
