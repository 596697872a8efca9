"""The study's data inside a worker: opened from plain values, cached from trial to trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdan.errors import DataError
from search.worker.store_sync import NodeError, PublishedStores
from search.worker.trainable import node_id

if TYPE_CHECKING:
    from fdan.data.split import SplitConfig
    from fdan.data.store import Store
    from fdan.data.task import Task
    from fdan.run_config import RunConfig
    from fdan.training.training_data import TrainingData


@dataclass(frozen=True)
class WorkerData:
    """What all trials of a study share, as plain values: a worker opens the data by itself."""

    acoustic: tuple[Path, ...]  # stores: absolute paths, on the driver's node or on all
    visual: tuple[Path, ...]
    split: Mapping[str, Any]  # a SplitConfig
    fixed: Mapping[str, Any]  # RunConfig's settings that are not searched
    device: str  # cpu or cuda: to a worker Ray shows only the GPUs of its trial
    cache: Path  # of features and maps of frozen stages; all nodes see it
    fingerprint: str  # the task's
    published: PublishedStores | None = None  # for other nodes; None: they see the same paths
    home: str = ""  # Ray's id of the driver's node

    @property
    def split_config(self) -> SplitConfig:
        from fdan.data.split import SplitConfig

        return SplitConfig.from_mapping(self.split)

    def run_config(self, params: Mapping[str, Any], name: str) -> RunConfig:
        """A trial's whole configuration.

        Args:
            params: Searched settings of the trial.
            name: Name of the trial in error messages.
        """
        from fdan.run_config import RunConfig

        return RunConfig.from_mapping({**self.fixed, **params}, name)


_cached: dict[str, tuple[TrainingData, ...]] = {}
"""The data of this process's last trial: with reuse_actors, the next one mostly needs the same."""


def load_data(
    data: WorkerData, run: RunConfig, notify: Callable[[str], None]
) -> tuple[TrainingData, ...]:
    """What a trial trains on, on this worker's device: that of each fold, or of the one split.

    Args:
        data: Data of the study.
        run: Configuration of the trial; its backbone decides what is loaded.
        notify: Function that shows the user a line about this node.
    """
    from fdan.data.folds import trained_splits
    from fdan.device import choose_device
    from fdan.training.training_data import load_training_data

    model = run.model
    key = repr((data, model.backbone, model.weights, model.tuning))
    if key not in _cached:
        _cached.clear()
        task = _open_task(data, notify)
        splits = trained_splits(task, data.split_config)
        device = choose_device(data.device)
        loaded = load_training_data(task, splits[0], run, device, data.cache)
        _cached[key] = tuple(loaded.divided(task, division) for division in splits)
    return _cached[key]


def _open_task(data: WorkerData, notify: Callable[[str], None]) -> Task:
    """The study's task, on whichever node this is. NodeError where this is not the driver's, and
    its data are not the study's."""
    from fdan.data.store import open_store
    from fdan.data.task import Task

    elsewhere = node_id() != data.home

    def store(folder: Path) -> Store:
        if elsewhere and data.published is not None:
            folder = data.published.local_copy(folder.name, notify)
        return open_store(folder)

    try:
        task = Task(tuple(map(store, data.acoustic)), tuple(map(store, data.visual)))
        if task.fingerprint != data.fingerprint:
            raise DataError(
                f"its data have the fingerprint {task.fingerprint[:12]}, the study's"
                f" {data.fingerprint[:12]}"
            )
    except DataError as error:
        if elsewhere:
            raise NodeError(str(error)) from None
        raise
    return task
