"""A study from its spec to its result: prepare, open, search, confirm, select, write, promote.

`run_study` runs all of it from Python; `python search/run.py` does the same.
"""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
from rich.console import Console

from fdan.corpora.demo.background import BackgroundDemo
from fdan.errors import FdanError
from search.callbacks.trial_figures import TrialFigures
from search.config.options import sections
from search.config.spec import StudySpec
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.prepare import (
    StudyInputs,
    decide_device,
    make_worker_data,
    open_data,
    prepare_training,
)
from search.results.provenance import made_from, parameters, tags
from search.results.summary import SearchEnd, summary
from search.selection.study_data import StudyData
from search.stages import (
    DRAIN_S,
    EXPERIMENT,
    RunContext,
    StudyOutcome,
    promote_model,
    run_confirmation,
    run_search,
    select_model,
    write_result,
)
from search.study.folder import driver_lock, record_start, write_begun
from search.study.identity import RequestedStudy, check_same_study
from search.study.open import open_study
from search.study.status import best_trial, count_finished, count_started
from search.study.stopping import StopSignal, stop_on_signals
from search.study.storage import open_storage
from search.study.storage_retry import StorageRetry, translate_storage_errors
from search.tune.ray_session import check_address
from search.tune.recovery import make_ray_session
from tracking.promotion.isolated_model import IsolatedModel
from tracking.result import StudyResult
from tracking.tags import BASELINE_UAR, COMPLETE, FAIL, PAUSED, STUDY_RUN
from tracking.tracker import Tracker
from tracking.uri import mask_password


@dataclass(frozen=True)
class _Finished:
    """Outcome of a study. exit_code: 0: finished, or its time is up; 1: no trial is complete, or
    the requested promotion did not happen; 130: Ctrl-C."""

    result: StudyResult
    summary: str
    exit_code: int


def run_study(spec: StudySpec) -> StudyResult:
    """Run a study, or continue the one of its name, to its end.

    As with `python search/run.py`, data are prepared, trials run on Ray, MLflow records them, and
    the study's folder holds its models, its report and its result. Progress goes to stderr. In the
    main thread, the first Ctrl-C ends the study early: the same call continues it.

    Args:
        spec: `StudySpec.make(trials=20, ...)`, whose options are those of the command line.

    Raises:
        FdanError: A mistake that the user can correct, in one line.
    """
    return _run(spec, None).result


def run_command(spec: StudySpec, demo: BackgroundDemo | None = None) -> int:
    """Run a study and print its summary.

    Args:
        spec: The study.
        demo: Demo corpus that is being written already.

    Returns:
        The exit code of the command.
    """
    finished = _run(spec, demo)
    print(finished.summary)
    return finished.exit_code


def _run(spec: StudySpec, demo: BackgroundDemo | None) -> _Finished:
    start = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    console = Console(stderr=True)
    check_address(spec.cluster)
    spec = decide_device(spec, lambda text: _print_line(console, text))
    with contextlib.ExitStack() as driving:
        if spec.study.study is not None:  # otherwise its data name it
            folder = spec.runs / spec.study.study
            driving.enter_context(driver_lock(folder, spec.study.study))
            write_begun(folder, spec.arguments)
        task, split = open_data(spec, console, demo)
        name = spec.name(task)
        folder, storage = spec.runs / name, spec.study.storage
        requested = RequestedStudy(
            name,
            folder,
            "journal" if storage is None else mask_password(storage),
            spec.identity(task.fingerprint),
            spec.space.enqueue,
        )
        check_same_study(requested)
        if spec.study.study is None:
            driving.enter_context(driver_lock(folder, name))
        driving.enter_context(translate_storage_errors(storage))
        inputs = StudyInputs(task, split, make_worker_data(spec, task))
        baseline_uar = prepare_training(spec, inputs, console)
        opened = _open_study(spec, requested)
        if spec.remembered:
            _print_line(console, f"study {name}, as before: {shlex.join(spec.remembered)}")
        with IsolatedModel() as isolated_model:
            data = StudyData(spec, opened, task, split, folder, inputs.load)
            return _run_stages(data, inputs, baseline_uar, isolated_model, console, start)


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _open_study(spec: StudySpec, requested: RequestedStudy) -> optuna.Study:
    store = open_storage(spec.study.storage, requested.folder)
    started = count_started(requested.name, store)
    study = open_study(
        requested,
        store,
        make_sampler(spec.search.sampler, spec.space, spec.seed, started),
        make_pruner(spec.search.pruner, spec.epochs),
    )
    record_start(requested.folder, spec.trials, spec.arguments, sections(spec.lasting_options))
    return study


def _run_stages(
    data: StudyData,
    inputs: StudyInputs,
    baseline_uar: float | None,
    isolated_model: IsolatedModel,
    console: Console,
    start: float,
) -> _Finished:
    spec = data.spec
    stop = StopSignal(spec.study.time_budget)
    patience = StorageRetry(spec.study.storage, lambda text: _print_line(console, text), stop.due)
    patience.wait_for_connections(data.study)
    with (
        Tracker(data.folder / "spool", spec.tracking_uri, EXPERIMENT) as tracker,
        _stopping_on_signals(stop, console),
        _closing(tracker),
    ):
        labels = tags(spec, data.task)
        tracker.open_study(data.study.study_name, parameters(spec, data.task), labels)
        if baseline_uar is not None:
            tracker.log_metrics(STUDY_RUN, 0, {BASELINE_UAR: baseline_uar})
            _print_line(
                console,
                "to beat: logistic regression on the same frozen speech features and split,"
                f" validation UAR {baseline_uar:.4f}",
            )
        data = _with_gpu_share(data, stop, console)
        with make_ray_session(data.spec, data.folder) as ray, TrialFigures() as drawing:
            context = RunContext(
                data=data,
                worker_data=inputs.worker_data,
                baseline_uar=baseline_uar,
                ray=ray,
                drawing=drawing,
                tracker=tracker,
                tags=labels,
                made_from=made_from(data.spec, data.task),
                stop=stop,
                console=console,
                isolated_model=isolated_model,
            )
            interruptions = run_search(context)
            confirm_stop = stop.for_confirmation()
            patience.stop_due = confirm_stop.due
            context = replace(context, stop=confirm_stop)
            settings = run_confirmation(context)
        outcome = _outcome(data, stop, confirm_stop)
        if spec.confirm.promote and outcome.complete:
            isolated_model.start()
        with _status(console, "models, figures and report"):
            chosen = select_model(context, settings)
            result = write_result(context, settings, chosen, outcome, interruptions)
            tracker.close_run(STUDY_RUN, outcome.state, outcome.text)
            if not tracker.drain(DRAIN_S):
                why = tracker.sender.reason or "slow"
                context.notify(
                    f"{tracker.unsent} records wait for MLflow ({why}); they are safe:"
                    f" python -m tracking flush {data.folder}"
                )
        page = tracker.page
    verdict = promote_model(context, chosen, outcome)
    end = SearchEnd(
        stopped=outcome.reason,
        seconds=time.monotonic() - start,
        tracking_uri=spec.tracking_uri,
        page=page,
        settings=settings,
        verdict=verdict,
        clip=_clip(data),
    )
    unpromoted = spec.confirm.promote and (verdict is None or not verdict.promoted)
    failed = unpromoted or best_trial(data.study) is None
    return _Finished(result, summary(result, data.folder, end), stop.code or int(failed))


def _outcome(data: StudyData, stop: StopSignal, confirm_stop: StopSignal) -> StudyOutcome:
    """How the study ended. stop, confirm_stop: of its search and its confirmation."""
    done = sum(count_finished(data.study).values())
    reason = confirm_stop.reason or stop.reason
    complete = (done >= data.spec.trials or stop.final) and not confirm_stop.reason
    text = f"{done} of {data.spec.trials} trials" + (f": {reason}" if reason else "")
    return StudyOutcome(COMPLETE if complete else PAUSED, text, reason)


def _with_gpu_share(data: StudyData, stop: StopSignal, console: Console) -> StudyData:
    """The study with the share of a GPU that its trials get, where that is to be found out."""
    if not data.spec.gpu_share_is_open:
        return data
    from search.planning.gpu_share import find_gpu_share

    _print_line(console, "finding out how many trials fit on a GPU")
    share = find_gpu_share(data.spec, data.task, data.split, data.folder, stop)
    if share is None:
        return data
    _print_line(console, f"{int(1 / share)} at a time fit on a GPU: --gpus-per-trial {share:g}")
    return replace(data, spec=data.spec.with_gpu_share(share))


def _clip(data: StudyData) -> Path | None:
    """A speech file of the test part to try a model on."""
    store, index = data.task.acoustic[0], int(data.split.acoustic_test[0])
    for source in data.spec.data.sources:
        file = source.path / (store.files[index] if index < len(store) else store.files[0])
        if source.modality == "acoustic" and file.is_file():
            return file
    return None


@contextlib.contextmanager
def _stopping_on_signals(stop: StopSignal, console: Console) -> Iterator[None]:
    """Outside the main thread, where Python handles no signals, the study runs to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with stop_on_signals(stop, lambda text: console.print(text, style="bold yellow")):
        yield


@contextlib.contextmanager
def _status(console: Console, text: str) -> Iterator[None]:
    with console.status(text) if console.is_terminal else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _closing(tracker: Tracker) -> Iterator[None]:
    """Whatever ends the study ends its parent run, which would otherwise look as if it were
    running."""
    try:
        yield
    except KeyboardInterrupt:  # the second one: at once
        with contextlib.suppress(FdanError):
            tracker.close_run(
                STUDY_RUN, PAUSED, "stopped by the user: the same command goes on with it"
            )
            tracker.drain(2.0)
        raise
    except BaseException as error:
        # A spool that cannot take this either must not hide the cause.
        with contextlib.suppress(FdanError):
            tracker.close_run(STUDY_RUN, FAIL, " ".join(str(error).split()) or type(error).__name__)
            tracker.drain(10.0)
        raise
