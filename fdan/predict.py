"""Emotions of new speech files, prepared just as the model's own training data were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fdan.corpora.listing import files_below, suffixes
from fdan.emotions import EMOTIONS
from fdan.errors import DataError

if TYPE_CHECKING:
    from fdan.model_folder import SpeechModel


@dataclass(frozen=True)
class Prediction:
    """One file's emotion with the probability of each, or the reason why there is none."""

    file: Path
    emotion: str | None
    probabilities: dict[str, float]
    reason: str = ""


def speech_files(paths: Iterable[Path]) -> list[Path]:
    """The files named, and of a folder every file below it that can hold speech.

    Raises:
        DataError: a path does not exist, or a folder holds no sound and no video.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = files_below(path, suffixes("acoustic"))
            if not inside:
                raise DataError(f"{path}: no sound or video file in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return found


def predict(model: SpeechModel, files: Iterable[Path]) -> Iterator[Prediction]:
    """One after the other, so that a long list shows progress. A video is judged by its sound:
    the network's prediction rests on speech alone (section 3.2)."""
    from fdan.media.pixels import read_pixels, settings_of

    settings = settings_of("acoustic", model.facts["preparation"]["acoustic"])
    for file in files:
        try:
            images = read_pixels(file, settings).images
        except DataError as error:
            yield Prediction(file, None, {}, str(error))
            continue
        chances = model.probabilities(images)[0]
        named = dict(zip(EMOTIONS, chances.tolist(), strict=True))
        yield Prediction(file, EMOTIONS[int(chances.argmax())], named)
