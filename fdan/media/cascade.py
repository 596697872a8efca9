"""The largest face that OpenCV's Haar cascade finds, without looking for the smaller ones.

The cascade tries windows of many sizes all over the image and reports a face where enough of the
accepted windows agree. Most of its time goes into the small windows, because there are most of
them; beside a large face they change nothing. Here windows are tried from the largest size down,
and no further than the answer can change: the face is that of one plain detectMultiScale call, to
the pixel. With the plain call, preparing takes twice as long for films (84 of 640 x 480: 3.8 s
against 7.1 to 10.8 s on two busy cores) and 2.9 times for the demo corpus's video (5.2 s against
15.0 s).
"""

import functools
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.errors import DataError
from fdan.machine.libraries import load_library

WINDOW: Final = 24  # width and height of the smallest window of the cascade, in pixels
_SCALE_FACTOR: Final = 1.1
_MIN_NEIGHBORS: Final = 5

_EDGES: Final = 0.2
"""OpenCV's own: two windows agree if none of their edges are further apart than this part of the
smaller one's size."""
_REACH: Final = 1 + 2 * _EDGES
"""Windows that agree differ in size by this factor at most. A face gives way to another one that it
lies in, give or take the same part, and that is therefore smaller by this factor at most."""
_EVERY_ROW: Final = 2.0
"""OpenCV moves windows from this many times the smallest on by every row (of the image shrunk so
that they fit), smaller ones by every other; whether those reach the last row depends on what else
is tried in the same call. So all small ones are one call, as they would be in a call for all."""

Box = tuple[int, int, int, int]  # left, top, width, height in pixels

_Boxes = NDArray[np.int64]  # (n, 4)


def largest_face(grey: NDArray[np.uint8], smallest: int) -> Box | None:
    """The largest face of at least `smallest` pixels; of equal ones the first from the top left.

    Args:
        grey: (height, width) uint8.
        smallest: Width and height of the smallest face, in pixels.
    """
    windows: _Boxes = np.zeros((0, 4), np.int64)
    face: Box | None = None
    for sizes in _turns(smallest, min(grey.shape)):
        if face is not None and _settled(windows, face, sizes[-1]):
            break
        accepted = _accepted(grey, sizes)
        if len(accepted):
            windows = np.concatenate([windows, accepted])
            face = _largest(windows, grey.shape)
    return face


def _turns(smallest: int, largest: int) -> list[list[int]]:
    """Sizes of the windows that OpenCV would try, turn by turn, the largest first: those of more
    than half the image's side in one, since each turn costs something of its own."""
    turns: list[list[int]] = [[], [], []]
    factor = 1.0
    while (size := round(WINDOW * factor)) <= largest:
        if size >= smallest:
            turns[0 if factor < _EVERY_ROW else 1 if size <= largest / 2 else 2].append(size)
        factor *= _SCALE_FACTOR
    small, large, huge = turns
    return [turn for turn in (huge, *([size] for size in reversed(large)), small) if turn]


def _accepted(grey: NDArray[np.uint8], sizes: list[int]) -> _Boxes:
    """The windows of these sizes, and of those between them, that the cascade accepts."""
    accepted = _cascade().detectMultiScale(
        grey,
        scaleFactor=_SCALE_FACTOR,
        minNeighbors=0,
        minSize=(sizes[0], sizes[0]),
        maxSize=(sizes[-1], sizes[-1]),
    )
    windows: _Boxes = np.reshape(accepted, (-1, 4)).astype(np.int64)
    # Those that a rounding put over the image's edge come cut by a pixel or two, but OpenCV
    # groups them before it cuts them.
    windows[:, 2] = np.array(sizes)[np.searchsorted(sizes, windows[:, 2:].max(axis=1, initial=0))]
    windows[:, 3] = windows[:, 2]
    return windows


def _largest(windows: _Boxes, shape: tuple[int, ...]) -> Box | None:
    """The largest face that these windows make, within an image of this shape."""
    cv2 = load_library("cv2")

    grouped, _ = cv2.groupRectangles(windows.tolist(), _MIN_NEIGHBORS, _EDGES)
    height, width = shape
    faces = [
        (x, y, min(w, width - x), min(h, height - y))
        for x, y, w, h in np.reshape(grouped, (-1, 4)).tolist()
    ]
    return max(faces, key=lambda box: (box[2] * box[3], -box[1], -box[0]), default=None)


def _settled(windows: _Boxes, face: Box, size: int) -> bool:
    """Whether windows of at most `size` pixels, not tried yet, leave this face the largest.

    They can join only windows that are hardly larger, by way of those others, and so on. If
    nothing that they reach in this way comes near the face's size, then every group of windows that
    is as large, or whose face could take its place, is complete.
    """
    sizes = windows[:, 2]
    near = sizes * _REACH >= min(face[2:]) - 1  # less one pixel, for OpenCV's rounding
    reached = sizes <= size * _REACH + 1
    fresh = reached
    while fresh.any() and not (reached & near).any():
        fresh = _agree(windows, windows[fresh]).any(axis=1) & ~reached
        reached = reached | fresh
    return not (reached & near).any()


def _agree(a: _Boxes, b: _Boxes) -> NDArray[np.bool_]:
    """(n, 4), (m, 4) -> (n, m): which windows OpenCV would put into one group, and a few more."""
    first, second = (np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) for boxes in (a, b))
    apart = np.abs(first[:, None] - second[None]).max(axis=2)
    agree: NDArray[np.bool_] = apart <= _EDGES * np.minimum(a[:, None, 2], b[:, 2]) + 1
    return agree


@functools.cache
def _cascade() -> Any:
    """OpenCV's cv2.CascadeClassifier for frontal faces."""
    cv2 = load_library("cv2")

    file = Path(load_library("cv2.data").haarcascades) / "haarcascade_frontalface_default.xml"
    classifier = cv2.CascadeClassifier(str(file))
    if classifier.empty():
        raise DataError(f"{file}: OpenCV's face cascade is missing; reinstall opencv-python 4")
    return classifier
