"""A training run at the end of an epoch: tensors as safetensors, the rest as JSON, no pickles.

A folder holds `checkpoint.json` and the tensors' file that it names. The JSON is written last
and by renaming, so that the folder always holds one whole checkpoint, the old one or the new.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor

from fdan.errors import FdanError, WeightsError
from fdan.files import first_line, sync_path, write_atomic
from fdan.machine.rights import write_with_rights
from fdan.run_config import RunConfig
from fdan.training.objective import objective_value

T = TypeVar("T")

_FORMAT: Final = 1
_JSON: Final = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """All that is needed to go on as if the run had not stopped, or to predict."""

    run: RunConfig
    epoch: int
    step: int
    history: tuple[float, ...]  # validation UAR of each epoch so far
    backbone_sha256: str  # the weights' file that the backbones started from or are
    data: str  # the fingerprint of data and split
    # On the CPU: model.* (the head; of the backbones what was trained), trained.* (the weights of
    # the last step, where those of the model are their average), momentum.* and variance.* (the
    # optimizer's), bank.* (Z_v^i of the bank's faces, of this epoch's weights).
    tensors: dict[str, Tensor]

    @property
    def value(self) -> float:
        """Value that a search compares."""
        return objective_value(self.history)

    def tensors_under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        start = f"{prefix}."
        return {k.removeprefix(start): z for k, z in self.tensors.items() if k.startswith(start)}

    @property
    def bank(self) -> tuple[Tensor, ...] | None:
        """Z_v^0 .. Z_v^(l-1), or None if attention is passed by."""
        model = self.run.model
        if model.context == "none":
            return None
        return tuple(self.tensors[f"bank.{i}"] for i in range(model.layers))

    @property
    def facts(self) -> dict[str, Any]:
        """All but the tensors, ready for JSON."""
        own = {k: value for k, value in vars(self).items() if k != "tensors"}
        return {**own, "run": self.run.as_dict()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], tensors: dict[str, Tensor], where: str) -> Self:
        """The inverse of `facts`. Any of ValueError, KeyError, TypeError and FdanError: they are
        not a checkpoint's.

        Args:
            facts: All but the tensors.
            tensors: The tensors.
            where: Origin of the facts, for messages.
        """
        return cls(
            run=RunConfig.from_mapping(facts["run"], where),
            epoch=int(facts["epoch"]),
            step=int(facts["step"]),
            history=tuple(float(uar) for uar in facts["history"]),
            backbone_sha256=str(facts["backbone_sha256"]),
            data=str(facts["data"]),
            tensors=tensors,
        )

    def save(self, folder: Path) -> None:
        """Write into `folder`, replacing a checkpoint that it holds. One writer at a time."""
        write_checkpoint(folder, self.facts, self.tensors)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """WeightsError if the folder holds no whole checkpoint."""

        def build(facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
            if "folds" in facts:
                raise WeightsError(f"checkpoint {folder}: is of folds, no single run's")
            return cls.from_facts(facts, tensors, f"checkpoint {folder}")

        return read_checkpoint(folder, build)


def write_checkpoint(folder: Path, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint into a folder, replacing the one that it holds. One writer at a time.

    Args:
        folder: The folder, which is made if it is missing.
        facts: All but the tensors, ready for JSON; `epoch` names the file.
        tensors: The tensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"tensors.{os.getpid()}.partial"
    try:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_with_rights(partial, lambda path: safetensors.torch.save_file(whole, path))
        sync_path(partial)
        crc = _crc32(partial)
        name = f"tensors-{facts['epoch']:06d}-{crc:08x}.safetensors"
        partial.replace(folder / name)
    finally:
        partial.unlink(missing_ok=True)
    written = {"format": _FORMAT, **facts, "tensors": name, "crc32": crc}
    write_atomic(folder / _JSON, json.dumps(written, indent=1) + "\n", sync=True)
    sync_path(folder)
    for file in folder.glob("tensors*"):
        if file.name != name:
            file.unlink(missing_ok=True)


def read_checkpoint(folder: Path, build: Callable[[Mapping[str, Any], dict[str, Tensor]], T]) -> T:
    """Read what `write_checkpoint` wrote. WeightsError if the folder holds no whole checkpoint.

    Args:
        folder: The folder.
        build: Function that makes the result of the facts and the tensors.
    """
    try:
        facts = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        if facts["format"] != _FORMAT:
            raise WeightsError(
                f"checkpoint {folder}: format {facts['format']}, this version reads {_FORMAT}"
            )
        file = folder / Path(facts["tensors"]).name
        if _crc32(file) != facts["crc32"]:
            raise WeightsError(f"checkpoint {folder}: {file.name} is damaged; use another")
        return build(facts, dict(safetensors.torch.load_file(file)))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise WeightsError(f"checkpoint {folder}: there is no {missing} in it") from None
    except FdanError as error:
        raise WeightsError(str(error)) from None
    except (OSError, ValueError, LookupError, TypeError, safetensors.SafetensorError) as error:
        reason = first_line(error, 120)
        raise WeightsError(f"checkpoint {folder} is damaged ({reason}); use another") from None


def _crc32(file: Path) -> int:
    with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        return zlib.crc32(content)
