"""The stages of a study: the search, the runs that confirm what it found, the model that it stands
for, its result, and its promotion."""

import contextlib
import shlex
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from fdan.errors import FdanError
from fdan.files import write_atomic
from search.callbacks.checkpoint_retention import CheckpointRetention
from search.callbacks.early_stopping import EarlyStopping
from search.callbacks.fail_fast import FailFast
from search.callbacks.mlflow import MlflowCallback, TrialRuns
from search.callbacks.trial_figures import TrialFigures
from search.config.options import to_toml
from search.config.resume_options import WRITTEN
from search.results.provenance import made_from, parameters
from search.results.study_result import EXPERIMENT, StudyEnd, study_result, trials_csv
from search.results.summary import SearchEnd, summary
from search.selection import confirm
from search.selection.test_score import score_test, stored_score
from search.selection.winner import ChosenModel, StudyData, write_models
from search.selection.yardsticks import scored_metrics, validation_metrics
from search.study.events import StudyCallback
from search.study.folder import share_checkpoints
from search.study.open import HOME
from search.study.status import best_trial, count_finished, count_started, running_trials
from search.study.stopping import StopSignal, stop_on_signals
from search.study.storage_retry import StorageRetry
from search.tune.recovery import Round, RoundContext, make_ray_session, run_round
from tracking import report
from tracking.promotion.isolated_model import IsolatedModel
from tracking.promotion.promote import PromotionOptions, Verdict, promote
from tracking.report.selectors import confirm_end
from tracking.result import StudyResult
from tracking.tags import COMPLETE, CONFIRM, CONFIRMATION, FAIL, PAUSED, SEARCH, STUDY_RUN
from tracking.tracker import Tracker

_DRAIN_S: Final = 60.0
"""How long the end waits for MLflow."""

_PAGE_S: Final = 10.0
"""How long the result waits for MLflow: the study's page is known once MLflow was reached."""

CONFIG: Final = "study.toml"
"""In a study's folder and its parent run: the options that make the study again (--config)."""


@dataclass(frozen=True)
class FinishedStudy:
    """Outcome of a study. exit_code: 0: finished, or its time is up; 1: no trial is complete, or
    the requested promotion did not happen; 130: Ctrl-C."""

    result: StudyResult
    summary: str
    exit_code: int


@dataclass(frozen=True)
class _Context:
    """What the stages of a study share."""

    data: StudyData
    rounds: RoundContext
    drawing: TrialFigures
    tracker: Tracker
    isolated_model: IsolatedModel
    notify: Callable[[str], None]

    def recorder(
        self, stage: str, folder: Path, queue: confirm.ConfirmationQueue | None = None
    ) -> MlflowCallback:
        """Records a stage's trials in MLflow. A confirming run has a seed of its own."""
        fixed = {k: v for k, v in self.data.spec.fixed.items() if k != "seed" or queue is None}
        runs = TrialRuns(fixed, self.data.tags, made_from(self.data), stage)
        if queue is not None:
            runs = replace(runs, trial_tags=queue.tags)
        return MlflowCallback(self.tracker, self.drawing, folder, runs)


def notifier(console: Console) -> Callable[[str], None]:
    """Shows the user a line of text as it is, however long."""
    return partial(console.print, highlight=False, markup=False, soft_wrap=True)


def run_stages(
    data: StudyData, isolated_model: IsolatedModel, console: Console, start: float
) -> FinishedStudy:
    """Run a study that is open to its end.

    Args:
        data: The study.
        isolated_model: Process that will load the model for its promotion.
        console: Console that shows the progress.
        start: When the command was started, by the monotonic clock [s].
    """
    spec, notify = data.spec, notifier(console)
    stop = StopSignal(spec.study.time_budget)
    retry = StorageRetry(spec.study.storage, notify, stop.due)
    retry.wait_for_connections(data.study)
    with (
        Tracker(data.folder / "spool", spec.tracking_uri, EXPERIMENT) as tracker,
        _stopping_on_signals(stop, console),
        _closing(tracker),
    ):
        tracker.open_study(data.study.study_name, parameters(spec, data.task), data.tags)
        if data.yardsticks:
            tracker.log_metrics(STUDY_RUN, 0, validation_metrics(data.yardsticks))
            words = (f"{y.title}, validation UAR {y.uar:.4f}" for y in data.yardsticks)
            notify(f"to beat on the same speech and split: {'; '.join(words)}")
        data = _with_gpu_share(data, stop, notify)
        with make_ray_session(data.spec, data.folder) as ray, TrialFigures() as drawing:
            rounds = RoundContext(data.worker_data, ray, stop, console)
            context = _Context(data, rounds, drawing, tracker, isolated_model, notify)
            interruptions = _run_search(context)
            confirm_stop = stop.for_confirmation()
            retry.stop_due = confirm_stop.due
            context = replace(context, rounds=replace(rounds, stop=confirm_stop))
            settings = _run_confirmation(context)
        if drawing.undrawn:
            notify(
                f"{len(drawing.undrawn)} trials have no figures ({drawing.undrawn[-1]}): once that"
                " is mended, the same command draws them"
            )
        end = _study_end(data, stop, confirm_stop)
        if spec.confirm.promote and end.complete:
            isolated_model.start()
        with console.status("models, figures and report"):
            chosen = _select_model(context, settings)
            result = _write_result(context, settings, chosen, end, interruptions)
            sure = "" if result.confirm is None else confirm_end(result.confirm)
            tags = {CONFIRMATION: sure} if sure else None
            tracker.close_run(STUDY_RUN, end.state, end.text, tags)
            if not tracker.drain(_DRAIN_S):
                why = tracker.sender.reason or "slow"
                notify(
                    f"{tracker.unsent} records wait for MLflow ({why}); they are safe:"
                    f" python -m tracking flush {shlex.quote(str(data.folder))}"
                )
        page = tracker.sender.server.page
    verdict = _promote(context, chosen, end) if spec.confirm.promote else None
    last = SearchEnd(
        result,
        data.folder,
        stopped=end.reason,
        seconds=time.monotonic() - start,
        tracking_uri=spec.tracking_uri,
        page=page,
        settings=settings,
        verdict=verdict,
        clip=_clip(data),
    )
    unpromoted = spec.confirm.promote and (verdict is None or not verdict.promoted)
    failed = unpromoted or best_trial(data.study) is None
    return FinishedStudy(result, summary(last), stop.code or int(failed))


def _study_end(data: StudyData, stop: StopSignal, confirm_stop: StopSignal) -> StudyEnd:
    done = sum(count_finished(data.study).values())
    reason = confirm_stop.reason or stop.reason
    complete = (done >= data.spec.trials or stop.final) and not confirm_stop.reason
    text = f"{done} of {data.spec.trials} trials" + (f": {reason}" if reason else "")
    return StudyEnd(COMPLETE if complete else PAUSED, text, reason)


def _with_gpu_share(data: StudyData, stop: StopSignal, notify: Callable[[str], None]) -> StudyData:
    """The study with the share of a GPU that its trials get, where that is to be found out."""
    if not data.spec.gpu_share_is_open:
        return data
    from search.planning.gpu_share import find_gpu_share

    notify("finding out how many trials fit on a GPU")
    share = find_gpu_share(data, stop)
    if share is None:
        return data
    notify(f"{int(1 / share)} at a time fit on a GPU: --gpus-per-trial {share:g}")
    per_trial = replace(data.spec.per_trial, gpus=share)
    return replace(data, spec=replace(data.spec, per_trial=per_trial))


def _run_search(context: _Context) -> Callable[[int], int]:
    """Run what is left of the search; returns how often each trial was interrupted."""
    data, stop = context.data, context.rounds.stop
    spec, study, folder = data.spec, data.study, data.folder
    name = study.study_name
    _share(data, folder, SEARCH)
    mlflow = context.recorder(SEARCH, folder)
    mlflow.catch_up(study.get_trials(deepcopy=False))
    retention = CheckpointRetention(folder, study)
    started = count_started(name, study._storage)
    left = max(0, spec.trials - started)
    rules: list[StudyCallback] = [FailFast(stop, count_finished(study))]
    if left and (noise := spec.study.stop_early) is not None:
        rules.append(EarlyStopping.of_study(stop, noise, study, folder))
    if stop.final and not running_trials(study):
        context.notify(f"study {name}: {stop.reason}")
    elif left or running_trials(study):
        run_round(
            spec,
            Round(
                study=study,
                suggest=spec.space.suggest,
                sampler=spec.search.sampler,
                pruner=spec.search.pruner,
                trials=spec.trials,
                new_trials=left,
                folder=folder,
                callbacks=(mlflow, retention, *rules),
                title=name,
            ),
            context.rounds,
        )
    else:
        extend = spec.how_to_extend(started)
        context.notify(f"study {name} has {started} trials already: nothing to run ({extend})")
    mlflow.finish()
    return mlflow.interruptions


def _run_confirmation(context: _Context) -> list[confirm.Setting]:
    """Run the best settings again, as far as that was requested and is not done; returns what was
    confirmed so far."""
    data, spec = context.data, context.data.spec
    nominated = confirm.nominate(data.study)[: spec.confirm.count]
    if not context.rounds.stop.due() and nominated:
        confirmation = confirm.open_confirmation(data.study)
        first = spec.seed + confirm.FIRST_SEED
        seeds = range(first, first + spec.confirm.seeds)
        queue = confirm.ConfirmationQueue(confirmation, nominated, seeds)
        folder = data.folder / confirm.FOLDER
        mlflow = context.recorder(CONFIRM, folder, queue)
        mlflow.catch_up(confirmation.get_trials(deepcopy=False), confirm.run_params)
        if queue.left or running_trials(confirmation):
            folder.mkdir(exist_ok=True)
            _share(data, folder, CONFIRM)
            context.notify(
                f"confirming the best {len(nominated)} with up to {len(seeds)} fresh seeds each:"
                " fewer for those that cannot win any more"
            )
            run_round(
                spec,
                Round(
                    study=confirmation,
                    suggest=queue.suggest,
                    sampler="",
                    pruner="none",
                    trials=count_started(confirmation.study_name, confirmation._storage)
                    + queue.left,
                    new_trials=queue.left,
                    folder=folder,
                    callbacks=(mlflow,),
                    title=f"{data.study.study_name}, confirming",
                    noun="run",
                    recount=lambda: queue.left,
                ),
                context.rounds,
            )
        mlflow.finish()
    return confirm.confirmed_settings(data.study)


def _select_model(context: _Context, settings: list[confirm.Setting]) -> ChosenModel | None:
    """Write the model that the study stands for, and score it on the test part if that was
    requested and nothing can choose another model any more; None where no trial is complete."""
    data, wanted = context.data, context.data.spec.confirm
    if data.folds and context.rounds.stop.reason:
        return None  # the final model is trained once, when nothing can choose another one
    chosen = write_models(data, settings, context.notify)
    if chosen is not None and wanted.scores_test and not context.rounds.stop.reason:
        score_test(chosen, wanted.score_again, context.notify)
    if (stored := stored_score(data.study)) is not None:
        tested = stored.score
        # On each start, since a driver may have died between scoring and recording; the tracker
        # passes over what it has.
        context.tracker.log_metrics(STUDY_RUN, len(tested.again), scored_metrics(tested))
    return chosen


def _write_result(
    context: _Context,
    settings: list[confirm.Setting],
    chosen: ChosenModel | None,
    end: StudyEnd,
    interruptions: Callable[[int], int],
) -> StudyResult:
    """Write result.json, the report and the table of trials, and log them with the study's run."""
    data, tracker = context.data, context.tracker
    tracker.drain(_PAGE_S)
    result = study_result(data, settings, chosen, end, tracker, interruptions)
    result.save(data.folder)
    write_atomic(data.folder / CONFIG, WRITTEN + to_toml(data.spec.lasting_options))
    table = data.folder / "figures" / "trials.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(table, trials_csv(data.study, tracker.run_ids))
    for file in (data.folder / CONFIG, *report.write(data.folder), table):
        tracker.log_artifact(STUDY_RUN, file, "study")
    return result


def _promote(context: _Context, chosen: ChosenModel | None, end: StudyEnd) -> Verdict | None:
    """Make the model the champion if every gate is open; None where the study is not finished.
    Without a verdict, the study still has its summary, which says why."""
    if not end.complete or chosen is None:
        context.notify(f"not promoted: the study is not finished ({end.text})")
        return None
    spec = context.data.spec
    options = PromotionOptions(
        uri=spec.tracking_uri, accept_yardstick_tie=spec.confirm.accept_yardstick_tie
    )
    try:
        return promote(
            context.data.folder, options, isolated_model=context.isolated_model, log=context.notify
        )
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, after hours of training
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyboardInterrupt):
            reason = "stopped by Ctrl-C"
            context.rounds.stop.request(reason, 130)
        elif not isinstance(error, FdanError | OSError):
            traceback.print_exc()
        command = f"python -m tracking promote {shlex.quote(str(context.data.folder))}"
        return Verdict(False, False, f"{reason}; the model is kept, for: {command}")


def _share(data: StudyData, folder: Path, stage: str) -> None:
    """On a cluster, put the checkpoints where all nodes see them."""
    shared, home = data.spec.shared, data.study.user_attrs[HOME]
    if shared is not None:
        share_checkpoints(folder, f"{data.study.study_name}-{home['id'][:8]}/{stage}", shared)


def _clip(data: StudyData) -> Path | None:
    """A speech file of the test part to try a model on."""
    store, index = data.task.acoustic[0], int(data.split.acoustic_test[0])
    for source in data.spec.data.sources:
        file = source.path / store.files[index if index < len(store) else 0]
        if source.modality == "acoustic" and file.is_file():
            return file
    return None


def _stopping_on_signals(stop: StopSignal, console: Console) -> AbstractContextManager[None]:
    """Outside the main thread, where Python handles no signals, the study runs to its end."""
    if threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return stop_on_signals(stop, partial(console.print, style="bold yellow"))


@contextlib.contextmanager
def _closing(tracker: Tracker) -> Iterator[None]:
    """Whatever ends the study ends its parent run, which would otherwise look as if it were
    running."""
    try:
        yield
    except BaseException as error:
        state, wait_s = FAIL, 10.0
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, KeyboardInterrupt):  # the second one: at once
            state, wait_s = PAUSED, 2.0
            reason = "stopped by the user: the same command goes on with it"
        # A spool that cannot take this either must not hide the cause.
        with contextlib.suppress(FdanError):
            tracker.close_run(STUDY_RUN, state, reason)
            tracker.drain(wait_s)
        raise
