"""Origin of a model: its data, their preparation, and the samples of each part.

It is kept in every model folder, and is enough to open the same data again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fdan.data.split import Split, SplitConfig, split
from fdan.data.store import Store, open_store
from fdan.data.task import Task
from fdan.errors import DataError


def origin(task: Task, config: SplitConfig) -> dict[str, Any]:
    """A model's origin, ready for JSON.

    Args:
        task: The data.
        config: Settings of their division.
    """
    return {
        "task": task.name,
        "data": task.fingerprint,
        "stores": {
            modality: [
                {"folder": str(store.folder), "fingerprint": store.fingerprint}
                for store in task.stores(modality)
            ]
            for modality in ("acoustic", "visual")
        },
        "preparation": {m: dict(task.stores(m)[0].settings) for m in ("acoustic", "visual")},
        "split": _split_facts(config),
    }


def _split_facts(config: SplitConfig) -> dict[str, Any]:
    """Without folds, or no outer one, it is the split of models that know none, and reads as theirs
    does."""
    facts = config.as_dict()
    if not config.has_folds:
        del facts["folds"]
    if not config.has_outer:
        del facts["outer"]
    return facts


def reopen(
    facts: Mapping[str, Any], stores: Path | None = None, near: Sequence[Path] = ()
) -> tuple[Task, Split]:
    """The data of an `origin`, divided as they were. DataError: a store is gone, or another one.

    Args:
        facts: Facts that `origin` returned.
        stores: Folder of the stores, if they were moved.
        near: Folders where the stores are now if the runs folder was moved with its models.
    """

    def reopened(modality: str) -> Iterator[Store]:
        for entry in facts["stores"][modality]:
            folder = Path(entry["folder"])
            if stores is not None:
                folder = stores / folder.name
            else:
                moved = [place / folder.name for place in near]
                folder = next((place for place in moved if place.exists()), folder)
            if not folder.exists():
                raise DataError(
                    f"{folder}: the prepared store that this model was trained on is gone;"
                    " prepare it again with the settings in model.json, or name its new place"
                    " with --stores"
                )
            store = open_store(folder)
            if store.fingerprint != entry["fingerprint"]:
                raise DataError(f"{folder}: holds other data than this model was trained on")
            yield store

    task = Task(tuple(reopened("acoustic")), tuple(reopened("visual")))
    if task.fingerprint != facts["data"]:
        raise DataError(f"{task.name}: holds other data than this model was trained on")
    return task, split(task, SplitConfig.from_mapping(facts["split"], "the model's split"))
