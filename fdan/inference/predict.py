"""Emotions of new speech files, which are prepared as the model's training data were."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import count_suffixes, describe_counts, find_files, media_suffixes, suffix
from fdan.emotions import EMOTIONS
from fdan.errors import DataError, WeightsError
from fdan.inference.model_source import Model
from fdan.machine.cpus import cpu_count
from fdan.media.pixels import ODDITIES, Settings, settings_from_dict
from fdan.media.pool import DecoderPool

SPEECH: Final = "speech"
BOTH: Final = "speech and face"
_TIMEOUT_S: Final = 120.0  # of a file, as in preparing


@dataclass(frozen=True)
class Prediction:
    """One file's emotion with the probability of each, or the reason why there is none."""

    file: Path
    emotion: str | None
    probabilities: dict[str, float]
    reason: str = ""
    by: str = SPEECH  # evidence that was used: SPEECH or BOTH
    notes: tuple[str, ...] = ()  # what is odd about the file: those of ODDITIES


def speech_files(paths: Iterable[Path]) -> list[Path]:
    """The files that are named, and every file below a folder that can hold speech. DataError: a
    path does not exist, or a folder holds no sound and no video."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = find_files(path)
            media = [file for file in inside if suffix(file) in media_suffixes("acoustic")]
            if not media:
                there = describe_counts(count_suffixes(inside))
                holds = f"; it holds {there}" if there else ""
                raise DataError(f"{path}: no sound or video file in this folder{holds}")
            files += media
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    return files


def predict(model: Model, files: Sequence[Path], face: Path | None = None) -> Iterator[Prediction]:
    """Predict file after file, so that a long list shows progress. A video is judged by its sound:
    the network predicts from speech alone (section 3.2), and from a face only if one is named.

    Files are decoded as a corpus is prepared: in separate processes, each in bounded time and
    memory, so that a damaged file gives a reason and harms nothing else. DataError: the face cannot
    be read. WeightsError: the model does not say how its data were prepared, or its answers are no
    probabilities.

    Args:
        model: An opened model.
        files: Sound files, or videos with sound.
        face: An image or a video of the speaker, which goes with every file.
    """
    faces = None if face is None else [_faces(model, face)]
    settings = _settings(model, "acoustic")
    with DecoderPool(settings, min(cpu_count(), max(len(files), 1)), _TIMEOUT_S) as workers:
        for file, pixels in zip(files, workers.read(files), strict=True):
            if isinstance(pixels, str):
                yield Prediction(file, None, {}, reason=pixels)
                continue
            chances = model.probabilities(pixels.images, faces)[0]
            if not np.isfinite(chances).all():
                raise WeightsError("the model is damaged: its answers are no probabilities")
            named = dict(zip(EMOTIONS, chances.tolist(), strict=True))
            by = SPEECH if face is None else BOTH
            notes = tuple(name for name in ODDITIES if pixels.counts.get(name))
            yield Prediction(file, EMOTIONS[int(chances.argmax())], named, by=by, notes=notes)


def _faces(model: Model, file: Path) -> NDArray[np.uint8]:
    """(K, H, W, 3): one from an image, several from a video."""
    with DecoderPool(_settings(model, "visual"), 1, _TIMEOUT_S) as workers:
        (pixels,) = workers.read([file])
    if isinstance(pixels, str):
        raise DataError(f"face {file}: {pixels}")
    return pixels.images


def _settings(model: Model, modality: str) -> Settings:
    try:
        return settings_from_dict(modality, model.facts["preparation"][modality])
    except DataError:  # another version's, in words
        raise
    except (KeyError, TypeError, ValueError):
        raise WeightsError(
            f"the model does not say how its data were prepared ({modality}); train it again"
        ) from None
