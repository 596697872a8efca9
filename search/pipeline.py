"""A study from its spec to its result: its data are prepared, it is opened, and its stages run
(search/stages.py).

`run_study` runs all of it from Python; `python search/run.py` does the same.
"""

import contextlib
import shlex
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import optuna
from rich.console import Console

from fdan.cli.terminal import Preparing, print_left_out
from fdan.corpora.demo import BackgroundDemo
from fdan.data.folds import fold_splits, refit_split
from fdan.data.open_task import open_task
from fdan.data.split import Split, SplitConfig
from fdan.data.task import Task
from fdan.device import choose_device
from fdan.errors import ConfigError
from fdan.evaluation.yardsticks import YardstickData
from fdan.machine.cpus import use_all_cpus
from fdan.machine.home import ensure_home
from fdan.machine.rights import follow_group
from fdan.run_config import RunConfig
from fdan.training.training_data import frozen_speech, load_training_data
from search.config.folds import decide_folds, folds_line
from search.config.options import sections
from search.config.spec import StudySpec
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.results.provenance import tags
from search.selection.winner import StudyData
from search.selection.yardsticks import validation_yardsticks
from search.stages import FinishedStudy, notifier, run_stages
from search.study.folder import driver_lock, record_start, write_begun
from search.study.identity import RequestedStudy, check_same_study
from search.study.open import open_study
from search.study.status import count_started
from search.study.storage import open_storage
from search.study.storage_retry import translate_storage_errors
from search.tune.autoscaler import cluster_has_gpu
from search.tune.ray_session import check_address
from search.worker.data import WorkerData
from search.worker.store_sync import publish_stores
from tracking.backend.moved import mend_places
from tracking.promotion.isolated_model import IsolatedModel
from tracking.result import StudyResult, YardstickUar
from tracking.uri import mask_password


def run_study(spec: StudySpec) -> StudyResult:
    """Run a study, or continue the one of its name, to its end.

    As with `python search/run.py`, data are prepared, trials run on Ray, MLflow records them, and
    the study's folder holds its models, its report and its result. Progress goes to stderr. In the
    main thread, the first Ctrl-C ends the study early: the same call continues it.

    Args:
        spec: `StudySpec.make(trials=20, ...)`, whose options are those of the command line. One
            that is nested is for `search.nested.pipeline.run_nested`.

    Raises:
        FdanError: A mistake that the user can correct, in one line.
    """
    if spec.study.nested is not None:
        raise ConfigError(
            f"nested = {spec.study.nested}: run_study runs one study; call run_nested(spec) of"
            " search.nested.pipeline, which runs one for each outer fold"
        )
    return run(spec).result


def run(spec: StudySpec, demo: BackgroundDemo | None = None) -> FinishedStudy:
    """Run a study as the command does.

    Args:
        spec: The study.
        demo: Demo corpus that is being written already.
    """
    start = time.monotonic()
    console = Console(stderr=True)
    notify = notifier(console)
    spec = start_driver(spec, notify)
    with contextlib.ExitStack() as driving:
        if spec.study.study is not None:  # otherwise its data name it
            folder = spec.runs / spec.study.study
            driving.enter_context(driver_lock(folder))
            write_begun(folder, spec.arguments)
        with Preparing(console) as progress:
            task, split = open_task(spec.data, spec.settings, progress, demo)
        print_left_out(task, console)
        decided = decide_folds(spec, task)
        spec = decided.spec
        folds: tuple[Split, ...] = ()
        if spec.settings.split.has_folds:
            folds = fold_splits(task, spec.settings.split)
            split = refit_split(task, spec.settings.split)
        name = spec.name(task)
        folder, storage = spec.runs / name, spec.study.storage
        requested = RequestedStudy(
            name,
            folder,
            "journal" if storage is None else mask_password(storage),
            spec.identity(task.fingerprint),
            spec.space.enqueue,
            spec.outside(name),
        )
        check_same_study(requested)
        if spec.study.study is None:
            driving.enter_context(driver_lock(folder))
        if line := folds_line(decided):
            notify(line)
        driving.enter_context(translate_storage_errors(storage))
        worker_data = make_worker_data(spec, task)
        speech = _prepare_training(spec, task, split, worker_data, console)
        with console.status("yardsticks"):
            yardsticks = _mean_yardsticks(task, folds or (split,), speech, notify)
        study = _open_study(spec, requested, notify)
        mend_places(spec.tracking_uri, notify)
        if spec.remembered:
            notify(f"study {name}, as before: {shlex.join(spec.remembered)}")
        with IsolatedModel() as isolated_model:
            labels = tags(spec, task, len(folds))
            data = StudyData(
                spec, study, task, split, folder, worker_data, yardsticks, labels, folds
            )
            return run_stages(data, isolated_model, console, start)


def start_driver(spec: StudySpec, notify: Callable[[str], None]) -> StudySpec:
    """What a driver does before anything else. Returns the study with its device decided.

    Args:
        spec: The study.
        notify: Function that shows the user a line.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    use_all_cpus()  # a notebook's own process has torch already; the workers follow these variables
    if line := ensure_home():
        notify(line)
    check_address(spec.cluster, spec.cluster_named)
    follow_group(spec.runs)
    return decide_device(spec, notify)


def decide_device(spec: StudySpec, notify: Callable[[str], None]) -> StudySpec:
    """Ask the cluster for GPUs, where no option says what the trials run on.

    Args:
        spec: The study.
        notify: Function that shows the user what is waited for and what was decided.
    """
    if not spec.device_is_open or spec.cluster is None:
        return spec
    if cluster_has_gpu(spec.cluster, notify):
        return spec.on_device("cuda")
    notify(
        "the cluster has no GPU, so the study is planned for its CPUs, and stays so; where"
        " GPU nodes are still to come: --gpus-per-trial 1, on a new --study"
    )
    return spec.on_device("cpu")


def make_worker_data(spec: StudySpec, task: Task) -> WorkerData:
    """The data as a study's workers open them.

    Args:
        spec: The study. With a shared folder, the stores are published there.
        task: Data whose stores are prepared.
    """
    acoustic, visual = (tuple(s.folder for s in part) for part in (task.acoustic, task.visual))
    return WorkerData(
        acoustic=acoustic,
        visual=visual,
        split=SplitConfig.pick(spec.settings.values),
        fixed=spec.fixed,
        device=spec.device,
        cache=(spec.shared or spec.runs) / "features",
        fingerprint=task.fingerprint,
        published=publish_stores([*acoustic, *visual], spec.shared) if spec.shared else None,
    )


def _prepare_training(
    spec: StudySpec, task: Task, split: Split, worker_data: WorkerData, console: Console
) -> npt.NDArray[np.float32] | None:
    """Compute what frozen stages make of the images once, with all cores; weights that cannot be
    had end the search here, in one line. Returns speech's features for the yardsticks. On a
    cluster, the workers do both, and there are none."""
    if spec.cluster is not None:
        return None
    run = RunConfig.from_mapping(spec.settings.run)
    device = choose_device("cuda:0" if spec.device == "cuda" else "cpu")
    with Preparing(console) as progress:
        cache, show = worker_data.cache, progress.features
        if run.model.tuning != "full":
            load_training_data(task, split, run, device, cache, show)
        return frozen_speech(task, run, device, cache, show)


def _mean_yardsticks(
    task: Task,
    splits: Sequence[Split],
    speech: npt.NDArray[np.float32] | None,
    notify: Callable[[str], None],
) -> tuple[YardstickUar, ...]:
    """What the search has to beat: the yardsticks' validation UARs, the mean over folds; those that
    each fold has."""
    scores: dict[str, list[YardstickUar]] = {}
    for number, split in enumerate(splits):
        tell = notify if number == 0 else lambda _: None
        for score in validation_yardsticks(YardstickData(task, split, speech), tell):
            scores.setdefault(score.name, []).append(score)
    return tuple(
        replace(of_folds[0], uar=statistics.fmean(score.uar for score in of_folds))
        for of_folds in scores.values()
        if len(of_folds) == len(splits)
    )


def _open_study(
    spec: StudySpec, requested: RequestedStudy, notify: Callable[[str], None]
) -> optuna.Study:
    store = open_storage(spec.study.storage, requested.folder)
    started = count_started(requested.name, store)
    study = open_study(
        requested,
        store,
        make_sampler(spec.search.sampler, spec.space, spec.seed, started),
        make_pruner(spec.search.pruner, spec.epochs),
        notify,
    )
    record_start(
        requested.folder,
        spec.trials,
        spec.arguments,
        sections(spec.lasting_options),
        requested.storage_name,
    )
    return study
