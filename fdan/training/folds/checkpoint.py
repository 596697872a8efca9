"""The checkpoints of all folds of a run, in one folder that holds those of one epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fdan.errors import WeightsError
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from fdan.training.objective import objective_value


@dataclass(frozen=True)
class FoldsCheckpoint:
    """A run whose folds are all at the end of the same epoch."""

    folds: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        assert len({fold.epoch for fold in self.folds}) == 1, "folds of several epochs"
        assert all(fold.run == self.run for fold in self.folds), "folds of several runs"

    @property
    def run(self) -> RunConfig:
        return self.folds[0].run

    @property
    def epoch(self) -> int:
        return self.folds[0].epoch

    @property
    def history(self) -> tuple[float, ...]:
        """Validation UAR of each epoch so far, the mean over folds."""
        return mean_history([fold.history for fold in self.folds])

    @property
    def value(self) -> float:
        """Value that a search compares."""
        return objective_value(self.history)

    def save(self, folder: Path) -> None:
        """Write into `folder`, replacing a checkpoint that it holds. One writer at a time."""
        facts = [{k: v for k, v in fold.facts.items() if k != "run"} for fold in self.folds]
        tensors = {
            f"{number}.{name}": tensor
            for number, fold in enumerate(self.folds)
            for name, tensor in fold.tensors.items()
        }
        run = {"run": self.run.as_dict(), "epoch": self.epoch}
        write_checkpoint(folder, {**run, "folds": facts}, tensors)

    @classmethod
    def load(cls, folder: Path) -> FoldsCheckpoint:
        """WeightsError if the folder holds no whole checkpoint of folds."""
        checkpoint = load_checkpoint(folder)
        if not isinstance(checkpoint, cls):
            raise WeightsError(f"checkpoint {folder}: is a single run's, not of folds")
        return checkpoint


def load_checkpoint(folder: Path) -> Checkpoint | FoldsCheckpoint:
    """The checkpoint that a folder holds, of a single run or of folds. WeightsError if it holds no
    whole one."""

    def build(facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> Checkpoint | FoldsCheckpoint:
        where = f"checkpoint {folder}"
        if "folds" not in facts:
            return Checkpoint.from_facts(facts, tensors, where)
        own: list[dict[str, Tensor]] = [{} for _ in facts["folds"]]
        for key, tensor in tensors.items():
            number, _, name = key.partition(".")
            own[int(number)][name] = tensor
        pairs = zip(facts["folds"], own, strict=True)
        run = {"run": facts["run"]}
        return FoldsCheckpoint(
            tuple(Checkpoint.from_facts({**fold, **run}, own, where) for fold, own in pairs)
        )

    return read_checkpoint(folder, build)


def mean_history(histories: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The mean over folds of each epoch's validation UAR.

    >>> mean_history([(0.25, 0.5), (0.75, 0.5)])
    (0.5, 0.5)
    """
    return tuple(sum(epoch) / len(epoch) for epoch in zip(*histories, strict=True))
