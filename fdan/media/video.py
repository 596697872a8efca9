"""Frames V1, V2, V3 of a video, uniformly spaced, decoded in one forward pass (section 3.2)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fdan.errors import DataError
from fdan.media.container import opened


def positions(count: int, frames: int) -> list[int]:
    """Indices of `frames` uniformly spaced frames out of `count`: the middle of each n-th part.

    Fewer when the video has fewer.

    >>> positions(90, 3), positions(2, 3)
    ([15, 45, 75], [0, 1])
    """
    return sorted({(2 * k + 1) * count // (2 * frames) for k in range(frames)}) if count else []


def read_frames(path: Path, frames: int) -> list[NDArray[np.uint8]]:
    """Uniformly spaced frames of a video.

    Frames are grabbed in order and only those wanted are converted: seeking would decode from
    the last key frame again each time. Where fewer decode than the file holds (it is damaged),
    a second pass takes the uniformly spaced ones of those.

    Returns:
        1 to `frames` images (height, width, 3) uint8, BGR as OpenCV has them.

    Raises:
        DataError: no frame can be decoded.
    """
    count = _packets(path)
    wanted = positions(count, frames)
    images, seen = _pass(path, wanted)
    if len(images) < len(wanted) and seen < count:
        images, _ = _pass(path, positions(seen, frames))
    if not images:
        raise DataError("holds no frame that can be decoded")
    return images


def _open(path: Path) -> Any:
    import cv2

    # One thread a worker: files are decoded side by side.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DataError("cannot be decoded as a video (damaged, or its coding is not known here)")
    return capture


def _packets(path: Path) -> int:
    """Packets of the picture track: one a frame. Read, not decoded, so it costs next to nothing,
    and unlike the count in a container's header it is never a promise."""
    import av

    count = 0
    with opened(path) as container:
        if not container.streams.video:
            raise DataError("has no picture track")
        with contextlib.suppress(av.FFmpegError):  # a file that breaks off while it is read
            for packet in container.demux(video=0):
                count += bool(packet.size)
    return count


def _pass(path: Path, wanted: list[int]) -> tuple[list[NDArray[np.uint8]], int]:
    """The wanted frames (ascending) that could be had, and how many frames were passed."""
    capture = _open(path)
    images: list[NDArray[np.uint8]] = []
    seen = 0
    try:
        for index in wanted:
            while seen <= index:
                if not capture.grab():
                    return images, seen
                seen += 1
            decoded, image = capture.retrieve()
            if decoded and image is not None and image.size:
                images.append(image)
    finally:
        capture.release()
    return images, seen
