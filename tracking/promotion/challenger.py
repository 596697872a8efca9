"""The winner of a study as a challenger of the champion: its files, read once, and what it would be
registered as."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch.utils.flop_counter import FlopCounterMode

from fdan.data.provenance import reopen
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.evaluation.predictions import Predictions
from fdan.files import sha256_file
from fdan.inference.model_folder import TENSORS, SpeechModel, read_model
from fdan.media.pixels import image_shape, settings_from_dict
from tracking.promotion.isolated_model import IsolatedModel
from tracking.registry.download import file_digests
from tracking.registry.model_card import model_card
from tracking.registry.package import build_package
from tracking.registry.registry import ModelVersion, Registry
from tracking.result import PREDICTIONS, YARDSTICK_PREDICTIONS, StudyResult, YardstickScore
from tracking.uri import mask_password

_REPRODUCED_UTTERANCES: Final = 64  # of the test part, which the packaged model answers again


@dataclass(frozen=True)
class Challenger:
    """A study's winner. What is read of it stays as it was when it was first read."""

    folder: Path  # the winner's folder
    result: StudyResult
    registry: Registry  # where it would be registered
    temporary: Path  # an empty folder
    isolated_model: IsolatedModel  # loads what would be registered
    stores: Path | None = None  # folder of the stores, if they were moved

    @property
    def tensors(self) -> Path:
        return self.folder / TENSORS

    @cached_property
    def model(self) -> SpeechModel:
        return read_model(self.folder)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the tensors' file. Raises OSError if there is none."""
        return sha256_file(self.tensors)

    @cached_property
    def predictions(self) -> Predictions:
        """Its predictions for the test part."""
        return Predictions.read(self.folder / PREDICTIONS)

    @cached_property
    def yardsticks(self) -> dict[str, Predictions]:
        """What the yardsticks that were scored beside it answered on the test part, by title."""
        test = self.result.test
        assert test is not None
        files = {
            y.title: self.folder / YARDSTICK_PREDICTIONS.format(y.name) for y in test.yardsticks
        }
        return {title: Predictions.read(file) for title, file in files.items()}

    @cached_property
    def data(self) -> tuple[Task, Split]:
        near = self.folder.absolute().parent.parent / "stores"
        return reopen(self.result.origin, self.stores, [near])

    def card(self, limit: int | None = None) -> str:
        """The model card, of so many characters at most."""
        uri = mask_password(self.registry.uri)
        return model_card(self.result, self.model.facts, self.registry.name, uri, limit)

    @cached_property
    def package(self) -> Path:
        """The folder that would be registered (tracking/registry/package.py)."""
        facts = self.model.facts
        metadata = {
            "study": self.result.study,
            "study_id": self.result.study_id,
            **{name: facts[name] for name in ("trial", "data", "preparation")},
            "sha256": self.sha256,
        }
        folder = self.temporary / "model"
        build_package(folder, self.folder, self.card(), metadata)
        return folder

    @cached_property
    def package_probabilities(self) -> npt.NDArray[np.float64]:
        """(N, 7): what the package, loaded by itself, says of the test part's first N utterances.
        It takes seconds. Raises FdanError if the package does not load."""
        task, split = self.data
        images = task.images("acoustic", split.acoustic_test[:_REPRODUCED_UTTERANCES])
        return self.isolated_model.probabilities(self.package, images)

    def is_version(self, version: ModelVersion) -> bool:
        """Whether this very model is registered as that version."""
        if not self.tensors.is_file():
            return False
        return version.is_model({"study_id": self.result.study_id, "sha256": self.sha256})

    def version_tags(self) -> dict[str, object]:
        """Tags that its version has whatever becomes of it."""
        result, facts, test = self.result, self.model.facts, self.result.test
        assert test is not None
        interval = test.interval
        over = f"{interval.level:.0%}, {interval.groups} {interval.by}s"
        return {
            "study": result.study,
            "study_id": result.study_id,
            **{name: facts[name] for name in ("trial", "confirm_run", "data")},
            "seed": self.model.run.training.seed,
            "task": result.task,
            "protocol": facts["split"]["protocol"],
            **file_digests(self.folder),
            **{f"test.{name}": f"{getattr(test, name):.4f}" for name in ("uar", "war", "wf1")},
            "test.uar.interval": f"{interval.low:.4f} to {interval.high:.4f} ({over})",
            "test.samples": test.samples,
            "test.scored": test.scored,
            **{f"test.yardstick.{y.name}": _beside(y) for y in test.yardsticks},
            "multiply_adds": multiply_adds(self.model),
            "git": result.git,
            **{f"version.{name}": value for name, value in result.versions.items()},
        }


def _beside(yardstick: YardstickScore) -> str:
    less = yardstick.difference
    return (
        f"UAR {yardstick.uar:.4f}, the model {less.value:+z.4f} ({less.low:+z.4f} to"
        f" {less.high:+z.4f}, p = {less.p:.4f})"
    )


def multiply_adds(model: SpeechModel) -> int:
    """Multiply-adds of the network for one utterance, counted while it answers: backbone,
    bottleneck, attention to the bank, classifier, at the size of image that it was trained with.

    Counted, not timed: the same on every machine. Additions alone, norms and activations are left
    out, as is preparing the sound.
    """
    settings = settings_from_dict("acoustic", model.facts["preparation"]["acoustic"])
    with FlopCounterMode(display=False) as counter:
        model.probabilities(np.zeros((1, *image_shape(settings)), np.uint8))
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations
