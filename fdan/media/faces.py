"""Face images: out of the frames of a video, or out of a still image."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.config import Config, option
from fdan.errors import DataError
from fdan.machine.libraries import load_library
from fdan.media.cascade import WINDOW, largest_face

# How an image became a face image: counted in the store.
FOUND: Final = "faces found"
CENTRE: Final = "no face, centre crop"
WHOLE: Final = "face crops taken whole"

_CROP_SIDE: Final = 128
"""A still image no larger than this is a face crop already: FER2013 has 48 x 48 pixels, RAF-DB
100 x 100."""

_UNDECODABLE: Final = "cannot be decoded as an image (damaged, or of a kind that is not read here)"

_STILL: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG|BM|GIF8|RIFF....WEBP"  # JPEG, PNG, BMP, GIF, WebP
    rb"|(II[*+]\0|MM\0[*+])"  # TIFF
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51"  # JPEG 2000
    rb"|P[1-7]\s"  # PBM, PGM, PPM, PAM
    rb"|....ftyp(avi[fs]|m[is]f1....([^\0]...)*?avi[fs])",  # AVIF
    re.DOTALL,
)
"""First bytes of the kinds of still images that corpora have (fdan/corpora/listing: IMAGE)."""

_WITH_ALPHA: Final = 4  # channels
_BLANK: Final = 2  # values of 255 between the darkest and the brightest pixel of one colour

_SMALLEST_PART: Final = 8  # a face smaller than this part of the frame is not the speaker's


@dataclass(frozen=True)
class FaceSettings(Config):
    """Settings that the pixels of a face image depend on."""

    face_size: int = option(224, "height and width of the face image", unit="pixels", low=16)
    frames: int = option(3, "uniformly spaced frames of a video: V1, V2, V3", low=1, high=32)
    margin: float = option(
        0.1, "border kept around a found face, in parts of its width", low=0, high=1
    )
    detect: str = option(
        "auto",
        "look for a face: always, never (centre crop), or auto: not in still images of at most"
        f" {_CROP_SIDE} pixels, which are face crops already",
        choices=("auto", "always", "never"),
    )
    detect_side: int = option(
        320, "images are shrunk to this longer side while looking for a face", unit="pixels", low=64
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """A still image: (height, width, 3) uint8, BGR; of an animation the first picture, of more than
    8 bits those that it uses, what is transparent on white. DataError: it cannot be decoded."""
    cv2 = load_library("cv2")

    # Not cv2.imread: it cannot open every path that Python can.
    encoded = np.fromfile(path, dtype=np.uint8)
    # Any other way leaves out transparency; this one leaves out that a camera was turned.
    image = None if _is_opaque(encoded) else _decode(encoded, cv2.IMREAD_UNCHANGED)
    if image is not None and image.ndim == 3 and image.shape[2] == _WITH_ALPHA:
        return _on_white(_to_8_bits(image[:, :, :3]), _to_8_bits(image[:, :, 3:]))
    # OpenCV makes no colours of grey values with more than 16 bits.
    grey = image is not None and image.ndim == 2 and image.dtype.itemsize > 2
    how = cv2.IMREAD_ANYDEPTH | (0 if grey else cv2.IMREAD_COLOR)
    image = _decode(encoded, how)
    if image is None or not image.size:
        raise DataError(_UNDECODABLE)
    image = _to_8_bits(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def is_still(content: bytes) -> bool:
    """Whether a file's content begins as a still image does, not as a film: of what has no name."""
    return _STILL.match(content) is not None


def is_blank(image: NDArray[np.uint8]) -> bool:
    """Whether an image (height, width, 3) shows one colour all over."""
    return int(np.ptp(image.reshape(-1, image.shape[2]), axis=0).max()) <= _BLANK


def _is_opaque(encoded: NDArray[np.uint8]) -> bool:
    """Whether a file is of a kind without transparency: JPEG, BMP (whose fourth channel is mostly
    empty), or a PNG of grey or colour values."""
    head = encoded[:26].tobytes()
    return head[:2] in (b"\xff\xd8", b"BM") or (head[:4] == b"\x89PNG" and head[25:] in b"\0\2")


def _decode(encoded: NDArray[np.uint8], how: int) -> NDArray[Any] | None:
    cv2 = load_library("cv2")
    try:
        image: NDArray[Any] | None = cv2.imdecode(encoded, how)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        raise DataError(_UNDECODABLE) from error
    return image


def _to_8_bits(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image of any depth with 8 bits, by the bits that it uses: cameras and tools keep 8, 10 or
    12 of them in 16."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind == "f":
        if not np.isfinite(image).all():
            raise DataError("holds pixels that are not finite")
        top = max(1.0, float(image.max()))  # 1 is white, or 255, or 65535
        white = next((white for white in (1.0, 255.0, 65535.0) if top <= white), top)
        return np.rint(image.clip(0) * (255 / white)).astype(np.uint8)
    bits = max(8, int(image.max()).bit_length())
    return (image.clip(0) >> (bits + bits % 2 - 8)).astype(np.uint8)


def _on_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3) on white, as far as alpha (height, width, 1) lets through."""
    if (alpha == 255).all():
        return np.ascontiguousarray(colours)
    opaque = alpha.astype(np.uint16)
    mixed = (colours * opaque + 255 * (255 - opaque) + 127) // 255
    return mixed.astype(np.uint8)


def face_image(
    image: NDArray[np.uint8], settings: FaceSettings, *, still: bool
) -> tuple[NDArray[np.uint8], str]:
    """The largest face of an image with a margin, or the image's middle where none is found:
    (face_size, face_size, 3) uint8, RGB; and FOUND, CENTRE or WHOLE.

    Args:
        image: (height, width, 3) uint8, BGR.
        settings: Size, margin and where to look for a face.
        still: Whether it is an image of its own, not a frame of a video.
    """
    cv2 = load_library("cv2")

    height, width = image.shape[:2]
    side = min(height, width)
    left, top, how = (width - side) // 2, (height - side) // 2, CENTRE
    if settings.detect == "auto" and still and max(height, width) <= _CROP_SIDE:
        how = WHOLE
    elif settings.detect != "never" and (square := _largest_face(image, settings)):
        (left, top, side), how = square, FOUND
    crop = image[top : top + side, left : left + side]
    size = settings.face_size
    interpolation = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    face = cv2.resize(crop, (size, size), interpolation=interpolation)
    return cv2.cvtColor(face, cv2.COLOR_BGR2RGB), how


def _largest_face(image: NDArray[np.uint8], settings: FaceSettings) -> tuple[int, int, int] | None:
    """Left, top and side of a square around the largest face, margin included, in the image."""
    cv2 = load_library("cv2")

    height, width = image.shape[:2]
    scale = min(1.0, settings.detect_side / max(height, width))
    if scale * min(height, width) < WINDOW:
        return None
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if scale < 1.0:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    smallest = max(WINDOW, min(grey.shape) // _SMALLEST_PART)
    face = largest_face(cv2.equalizeHist(grey), smallest)
    if face is None:
        return None
    x, y, w, h = face
    side = min(round(max(w, h) * (1 + 2 * settings.margin) / scale), height, width)
    left = round((x + w / 2) / scale - side / 2)
    top = round((y + h / 2) / scale - side / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side
