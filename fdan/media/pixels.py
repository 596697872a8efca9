"""One media file to the images that a store holds of it."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.corpora.listing import IMAGE, suffix
from fdan.corpora.pixel_table import read_picture, table_of
from fdan.errors import DataError
from fdan.files import is_utf8
from fdan.media.audio import CUT, LOUDEST, read_speech, window
from fdan.media.container import SEVERAL_STREAMS
from fdan.media.faces import FaceSettings, face_image, is_blank, read_image
from fdan.media.spectrogram import SpectrogramSettings

VERSION: Final = 1
"""Raised by one whenever the same file and settings give other pixels: old stores no longer fit."""

ODDITIES: Final = (LOUDEST, CUT, *SEVERAL_STREAMS.values())
"""What a user is told of the files of which it is counted."""

READING: Final = 3
"""Raised by one whenever files of some kinds only give other pixels."""

_SECOND: Final = 2
_FLAC_CHANNELS: Final = 20  # where a FLAC file says how many it has, less one: three bits

_LATER: Final = {"reference": "clip"}
"""Settings that came after stores had been made, with what every image was made with before."""

Settings = SpectrogramSettings | FaceSettings


@dataclass(frozen=True)
class Pixels:
    """Images (n, height, width, channels) uint8 of one file, and how they came about."""

    images: NDArray[np.uint8]
    counts: dict[str, int] = field(default_factory=dict)
    statistics: NDArray[np.float32] | None = None
    """(n, COLUMNS) MFCC statistics (fdan/media/speech_statistics), where they were asked for"""


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Everything that the pixels depend on, as a store's manifest and a model keep it. A setting
    that came later stands there unless it is what every image was made with before."""
    values = settings.as_dict()
    for name, before in _LATER.items():
        if values.get(name) == before:
            del values[name]
    return {**values, "version": VERSION}


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


def reading(path: Path, modality: str) -> int:
    """The number of the way in which a file is read: stores that hold files of a kind that is read
    in another way now no longer fit. Kinds that a later way did not change keep the earlier one's:
    the third is of sound that may have channels, and of TIFF images.

    Args:
        path: The media file.
        modality: "acoustic" or "visual".
    """
    kind = suffix(path)
    if modality == "visual":
        return 1 if kind == ".avi" else READING if kind in (".tif", ".tiff") else _SECOND
    if kind not in (".wav", ".flac"):
        return READING
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError:  # it is listed as unreadable
        return 1
    if kind == ".flac":
        mono = head[:4] == b"fLaC" and len(head) > _FLAC_CHANNELS
        return _SECOND if mono and not head[_FLAC_CHANNELS] & 0b1110 else READING
    mono = head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt " and head[22:24] == b"\x01\x00"
    return 1 if mono else READING


def image_shape(settings: Settings) -> tuple[int, int, int]:
    """Height, width and channels of the images: 1 channel for speech, 3 (RGB) for faces."""
    if isinstance(settings, SpectrogramSettings):
        return settings.spectrogram_size, settings.spectrogram_size, 1
    return settings.face_size, settings.face_size, 3


def read_pixels(path: Path, settings: Settings, *, statistics: bool = False) -> Pixels:
    """The images of one file: a speech image, or the faces of a video or still image. DataError:
    it is unusable; the message is a reason that continues its name.

    Args:
        path: The media file.
        settings: Settings that the images depend on.
        statistics: Whether speech gets its MFCC statistics, too.
    """
    try:
        if table_of(path) is None and not path.stat().st_size:
            raise DataError("is empty (0 bytes)")
        with _utf8_name(path) as file:
            if isinstance(settings, SpectrogramSettings):
                return _speech(file, settings, statistics)
            return _faces(file, settings)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})") from error


@contextlib.contextmanager
def _utf8_name(path: Path) -> Iterator[Path]:
    """The file under a name that decoders can open. They know UTF-8 alone, and OpenCV ends the
    process at another name, of an old archive, say."""
    if is_utf8(path) or table_of(path) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="fdan-name-") as folder:
        link = Path(folder, "file").with_suffix(path.suffix.encode("ascii", "ignore").decode())
        link.symlink_to(path.absolute())
        yield link


def _speech(path: Path, settings: SpectrogramSettings, statistics: bool) -> Pixels:
    from fdan.media.spectrogram import spectrogram_image
    from fdan.media.speech_statistics import speech_statistics

    counts: Counter[str] = Counter()
    speech = read_speech(path, settings.sample_rate, counts)
    image = spectrogram_image(window(speech, settings.length), settings)
    excess = len(speech) - settings.length
    counts["longer than the window, cut"] += excess > 0
    counts["shorter, padded"] += excess < 0
    described = speech_statistics(speech, settings.sample_rate)[None] if statistics else None
    return Pixels(image[None], dict(counts), described)


def _faces(path: Path, settings: FaceSettings) -> Pixels:
    from fdan.media.video import read_frames

    counts: Counter[str] = Counter()
    in_table = table_of(path) is not None
    still = in_table or suffix(path) in IMAGE
    if in_table:
        frames = [read_picture(path)[:, :, None].repeat(3, axis=2)]
    else:
        frames = [read_image(path)] if still else read_frames(path, settings.frames, counts)
    faces = [face_image(frame, settings, still=still) for frame in frames]
    if still and is_blank(faces[0][0]):  # a film is often dark for a while
        raise DataError("is blank: one colour all over the part that is used")
    counts.update(how for _, how in faces)
    return Pixels(np.stack([face for face, _ in faces]), dict(counts))
