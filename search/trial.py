"""One trial inside a worker. Nothing here knows Optuna's study or MLflow: a trial gets settings,
reports epochs, and keeps its newest checkpoint in the folder of its number."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from fdan.errors import FdanError
from search.report import FAILED, REPORT, Report


@dataclass(frozen=True)
class Assignment:
    """What a worker is asked to run."""

    number: int
    params: Mapping[str, Any]
    folder: Path
    """The trial's own, made already: <study>/trials/0007."""
    threads: int
    """CPU threads that belong to this trial."""


Trainable = Callable[[Assignment, Callable[[Report], None]], None]
"""Runs a trial to its end and reports each epoch. Raises FdanError for what the settings or the
data did (the worker goes on to the next trial); any other exception ends the worker too."""


class Crashed(Exception):  # noqa: N818
    """A trial's exception in one message; its traceback is in error.txt."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split())[:300])


def folder_of(study: Path, number: int) -> Path:
    """The folder that the trial `number` of a study owns."""
    return study / "trials" / f"{number:04d}"


def function(train: Trainable, study: Path, threads: int) -> Callable[[dict[str, Any]], None]:
    """`train` as a function for Ray Tune, whose config is {"number": ..., "params": {...}}."""

    def fdan_trial(config: dict[str, Any]) -> None:
        folder = folder_of(study, config["number"])
        folder.mkdir(parents=True, exist_ok=True)
        assignment = Assignment(config["number"], config["params"], folder, threads)
        try:
            train(assignment, lambda report: tune.report({REPORT: report}))
        except FdanError as error:
            tune.report({FAILED: str(error)})
        except Exception as error:
            _keep(folder / "error.txt", traceback.format_exc())
            if not _out_of_memory(error):
                # Whatever state this process is in, no other trial should inherit it.
                raise Crashed(f"{type(error).__name__}: {error}") from None
            sys.modules["torch"].cuda.empty_cache()
            tune.report({FAILED: "out of GPU memory"})

    return fdan_trial


@dataclass(frozen=True)
class Work:
    """What all trials of a study share, as plain values: a worker opens the data by itself."""

    acoustic: tuple[Path, ...]
    """Stores, absolute paths that every node sees."""
    visual: tuple[Path, ...]
    split: Mapping[str, Any]
    """A SplitConfig."""
    fixed: Mapping[str, Any]
    """RunConfig's settings that are not searched."""
    device: str
    """cpu or cuda: to a worker Ray shows only the GPUs of its trial."""
    gpus: float
    """Less than 1: the part of the GPU's memory that is the trial's."""
    cache: Path
    """Where frozen backbones' features are kept."""


CHECKPOINT = "checkpoint"
"""Folder of a trial's newest checkpoint, in the trial's own."""

_SAVING = 0.05
"""Share of a trial's time that may go into saving checkpoints."""


def trainer(work: Work) -> Trainable:
    """The Trainable that trains an FDAN."""

    def train(assignment: Assignment, report: Callable[[Report], None]) -> None:
        _train(work, assignment, report)

    return train


def _train(work: Work, assignment: Assignment, report: Callable[[Report], None]) -> None:
    # Here, so that a process that only plans imports no torch.
    import torch

    from fdan.checkpoint import Checkpoint
    from fdan.run_config import RunConfig
    from fdan.train import EpochReport, train

    torch.set_num_threads(assignment.threads)  # holds for the calling thread, so for each trial
    if 0 < work.gpus < 1:
        # Ray's fractions are book-keeping: without a bound, one trial starves its neighbours.
        torch.cuda.set_per_process_memory_fraction(work.gpus)
    run = RunConfig.from_mapping({**work.fixed, **assignment.params}, f"trial {assignment.number}")
    folder = assignment.folder / CHECKPOINT
    saved_at = cost = 0.0

    def after_epoch(epoch: EpochReport, checkpoint: Checkpoint) -> None:
        nonlocal saved_at, cost
        began = time.monotonic()
        if epoch.epoch == run.training.epochs or began - saved_at >= cost / _SAVING:
            checkpoint.save(folder)
            saved_at = time.monotonic()
            cost = saved_at - began
        metrics = {name: float(value) for name, value in epoch.metrics.items()}
        report(Report(epoch.epoch, metrics["value"], metrics, epoch.confusion.tolist()))

    train(run, _data(work, run), after_epoch, device=work.device)


_loaded: dict[str, Any] = {}
"""The data of this process's last trial: the next one, with reuse_actors, mostly needs the same."""


def _data(work: Work, run: Any) -> Any:
    import torch

    from fdan.runtime import choose_device
    from fdan.split import SplitConfig, split
    from fdan.store import open_store
    from fdan.task import Task
    from fdan.training_data import load

    model = run.model
    key = repr((work, model.backbone, model.weights, model.tuning))
    if key not in _loaded:
        _loaded.clear()
        stores = ([open_store(folder) for folder in part] for part in (work.acoustic, work.visual))
        task = Task(*(tuple(part) for part in stores))
        parts = split(task, SplitConfig.from_mapping(work.split))
        device: torch.device = choose_device(work.device)
        _loaded[key] = load(task, parts, run, device, work.cache)
    return _loaded[key]


def _out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)


def _keep(path: Path, text: str) -> None:
    """For whoever looks for the cause; a disk that refuses it must not hide the cause itself."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
