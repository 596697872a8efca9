"""One media file to the images that a store holds of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import IMAGE
from fdan.errors import DataError
from fdan.media.faces import FaceSettings, face_image, read_image
from fdan.media.spectrogram import SpectrogramSettings

VERSION: Final = 1
"""Raised by one whenever the same file and settings give other pixels: old stores no longer fit."""

Settings = SpectrogramSettings | FaceSettings


@dataclass(frozen=True)
class Pixels:
    """Images (n, height, width, channels) uint8 of one file, and how they came about."""

    images: NDArray[np.uint8]
    counts: dict[str, int] = field(default_factory=dict)


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Everything that the pixels depend on, as a store's manifest and a model keep it."""
    return {**settings.as_dict(), "version": VERSION}


def settings_from_dict(modality: str, stored: Mapping[str, Any]) -> Settings:
    """The settings back from `settings_to_dict`, to prepare new files in the same way. DataError:
    settings of another version of this code.

    Args:
        modality: "acoustic" or "visual".
        stored: Names and values, and the version.
    """
    values = dict(stored)
    version = values.pop("version", None)
    if version != VERSION:
        raise DataError(
            f"prepared by version {version} of the media code, this is version {VERSION}:"
            " prepare and train again, or use the release that made it"
        )
    kind: type[Settings] = SpectrogramSettings if modality == "acoustic" else FaceSettings
    return kind.from_mapping(values, f"{modality} preparation")


def image_shape(settings: Settings) -> tuple[int, int, int]:
    """Height, width and channels of the images: 1 channel for speech, 3 (RGB) for faces."""
    if isinstance(settings, SpectrogramSettings):
        return settings.spectrogram_size, settings.spectrogram_size, 1
    return settings.face_size, settings.face_size, 3


def read_pixels(path: Path, settings: Settings) -> Pixels:
    """The images of one file: a speech image, or the faces of a video or still image. DataError:
    it is unusable; the message is a reason that continues its name.

    Args:
        path: The media file.
        settings: Settings that the images depend on.
    """
    try:
        if not path.stat().st_size:
            raise DataError("is empty (0 bytes)")
        if isinstance(settings, SpectrogramSettings):
            return _speech(path, settings)
        return _faces(path, settings)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


def _speech(path: Path, settings: SpectrogramSettings) -> Pixels:
    from fdan.media.audio import read_speech, window
    from fdan.media.spectrogram import spectrogram_image

    speech = read_speech(path, settings.sample_rate)
    image = spectrogram_image(window(speech, settings.length), settings)
    excess = len(speech) - settings.length
    counts = {"longer than the window, cut": int(excess > 0), "shorter, padded": int(excess < 0)}
    return Pixels(image[None], counts)


def _faces(path: Path, settings: FaceSettings) -> Pixels:
    from fdan.media.video import read_frames

    still = path.suffix.lower() in IMAGE
    frames = [read_image(path)] if still else read_frames(path, settings.frames)
    faces = [face_image(frame, settings, still=still) for frame in frames]
    return Pixels(np.stack([face for face, _ in faces]), dict(Counter(how for _, how in faces)))
