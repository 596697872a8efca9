"""Training an FDAN as a trial, or several as a group, inside a worker: on the study's data, from
the newest checkpoint on, with every epoch written down before it is told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdan.errors import DataError, FdanError
from search.worker import epoch_log
from search.worker.messages import Report
from search.worker.store_sync import Published, Refused
from search.worker.trainable import Assignment, Tell, Together, Trainable, node
from search.worker.trial_folder import CHECKPOINT, folder_of

if TYPE_CHECKING:
    from fdan.run_config import RunConfig
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.train import Diverged, EpochReport


@dataclass(frozen=True)
class Work:
    """What all trials of a study share, as plain values: a worker opens the data by itself."""

    acoustic: tuple[Path, ...]
    """Stores: absolute paths, on the driver's node or on all."""
    visual: tuple[Path, ...]
    split: Mapping[str, Any]
    """A SplitConfig."""
    fixed: Mapping[str, Any]
    """RunConfig's settings that are not searched."""
    device: str
    """cpu or cuda: to a worker Ray shows only the GPUs of its trial."""
    cache: Path
    """Where frozen backbones' features are kept; all nodes see it."""
    data: str
    """The task's fingerprint."""
    published: Published | None = None
    """The stores as other nodes can have them; None: they see the same paths."""
    home: str = ""
    """Ray's id of the driver's node."""


_AT_STAKE_S = 2.0
"""Training that may be lost beyond the epoch under way: an epoch this long is saved at its end."""


class _Pace:
    """When it is time to save checkpoints: after the first epoch, then every _AT_STAKE_S."""

    def __init__(self) -> None:
        self._saved_at = float("-inf")

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= _AT_STAKE_S

    def saved(self) -> None:
        self._saved_at = time.monotonic()


def trainer(work: Work) -> Trainable:
    """The Trainable that trains an FDAN."""

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        _train(work, assignment, report)

    return train


def group_trainer(work: Work) -> Together:
    """Trains several with frozen backbones as one."""

    def together(assignments: Sequence[Assignment], tell: Tell) -> None:
        _train_group(work, assignments, tell)

    return together


def _train(work: Work, assignment: Assignment, report: Callable[[Report], None]) -> None:
    from fdan.training.train import train

    _ready(assignment)
    run = _run(work, assignment.number, assignment.params)
    folder = assignment.folder / CHECKPOINT
    resume, untold = _newest(assignment.folder, assignment.after, run)
    for told in untold:
        report(told)
    pace = _Pace()

    def after_epoch(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        told = _told(epoch)
        log.append(told)
        if epoch.epoch == run.training.epochs or pace.due:
            log.sync()
            checkpoint().save(folder)
            pace.saved()
        report(told)

    with contextlib.closing(epoch_log.EpochLog(assignment.folder)) as log:
        train(run, _data(work, run, assignment.say), after_epoch, device=work.device, resume=resume)


def _train_group(work: Work, assignments: Sequence[Assignment], tell: Tell) -> None:
    from fdan.training.group import MemberEpoch, train_group

    _ready(assignments[0])
    runs = [_run(work, assignment.number, assignment.params) for assignment in assignments]
    starts = []
    for assignment, run in zip(assignments, runs, strict=True):
        start, untold = _newest(assignment.folder, assignment.after, run)
        starts.append(start)
        for report in untold:
            tell({assignment.number: report}, {})
    pace = _Pace()

    def after_epoch(members: Sequence[MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
        reports = {}
        for member in members:
            log = logs[member.place]
            reports[assignments[member.place].number] = told = _told(member.epoch)
            log.append(told)
        due = pace.due
        for member in members:
            assignment = assignments[member.place]
            if due or member.epoch.epoch == assignment.until:
                logs[member.place].sync()
                member.checkpoint().save(assignment.folder / CHECKPOINT)
        if due:
            pace.saved()
        tell(reports, {assignments[place].number: str(why) for place, why in diverged.items()})

    with contextlib.ExitStack() as open_logs:
        logs = [epoch_log.EpochLog(assignment.folder) for assignment in assignments]
        for log in logs:
            open_logs.callback(log.close)
        train_group(
            runs,
            _data(work, runs[0], assignments[0].say),
            after_epoch,
            device=work.device,
            resume=starts,
            until=[assignment.until for assignment in assignments],
        )


def _ready(assignment: Assignment) -> None:
    # Here, so that a process that only plans imports no torch.
    import torch

    from fdan.device import limit_gpu_memory

    torch.set_num_threads(assignment.threads)  # holds for the calling thread, so for each trial
    if 0 < assignment.gpus < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        limit_gpu_memory(assignment.gpus)


def _run(work: Work, number: int, params: Mapping[str, Any]) -> RunConfig:
    from fdan.run_config import RunConfig

    return RunConfig.from_mapping({**work.fixed, **params}, f"trial {number}")


def _told(epoch: EpochReport) -> Report:
    metrics = {name: float(value) for name, value in epoch.metrics.items()}
    return Report(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist())


def untold(
    work: Work, folder: Path, number: int, params: Mapping[str, Any], after: int
) -> list[Report]:
    """What a trial's workers have finished after that epoch, saved, and told nobody of: what the
    next one tells first. folder: of the study, or of its confirming runs."""
    try:
        return _newest(folder_of(folder, number), after, _run(work, number, params))[1]
    except (FdanError, OSError):  # that worker will say so
        return []


def _newest(folder: Path, after: int, run: RunConfig) -> tuple[Checkpoint | None, list[Report]]:
    """The checkpoint to go on from, None to begin anew, and what was trained up to there without
    being heard of. Epochs that were reported and lie after the checkpoint are trained again."""
    from fdan.errors import WeightsError
    from fdan.training.checkpoint import Checkpoint

    try:
        checkpoint = Checkpoint.load(folder / CHECKPOINT)
    except WeightsError:  # none yet, or not whole
        return None, []
    if {**checkpoint.run.as_dict(), "epochs": 0} != {**run.as_dict(), "epochs": 0}:
        return None, []  # whatever it is doing in this folder
    logged = epoch_log.read(folder)
    unheard = range(after + 1, checkpoint.epoch + 1)
    if any(epoch not in logged for epoch in unheard):
        return None, []
    return checkpoint, [logged[epoch] for epoch in unheard]


_loaded: dict[str, Any] = {}
"""The data of this process's last trial: the next one, with reuse_actors, mostly needs the same."""


def _data(work: Work, run: Any, say: Callable[[str], None]) -> Any:
    import torch

    from fdan.data.split import SplitConfig, split
    from fdan.device import choose_device
    from fdan.training.training_data import load_training_data

    model = run.model
    key = repr((work, model.backbone, model.weights, model.tuning))
    if key not in _loaded:
        _loaded.clear()
        task = _task(work, say)
        parts = split(task, SplitConfig.from_mapping(work.split))
        device: torch.device = choose_device(work.device)
        _loaded[key] = load_training_data(task, parts, run, device, work.cache)
    return _loaded[key]


def _task(work: Work, say: Callable[[str], None]) -> Any:
    """The study's data, on whichever node this is. Raises Refused where they are not the same."""
    from fdan.data.store import open_store
    from fdan.data.task import Task

    elsewhere = node() != work.home
    published = work.published if elsewhere else None

    def store(folder: Path) -> Any:
        return open_store(published.here(folder.name, say) if published else folder)

    try:
        task = Task(*(tuple(map(store, part)) for part in (work.acoustic, work.visual)))
        if task.fingerprint != work.data:
            raise DataError(
                f"its data have the fingerprint {task.fingerprint[:12]}, the study's"
                f" {work.data[:12]}"
            )
    except DataError as error:
        if elsewhere:
            raise Refused(str(error)) from None
        raise
    return task
