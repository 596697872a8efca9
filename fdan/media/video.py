"""Frames V1, V2, V3 of a video, uniformly spaced, decoded in one forward pass (section 3.2)."""

import contextlib
import functools
import itertools
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.errors import DataError
from fdan.libraries import load_library
from fdan.media.container import open_container

_MOTION_JPEG: Final = "mjpeg"  # the coding of many films that are cut or played frame by frame


def _positions(count: int, frames: int) -> list[int]:
    """Indices of uniformly spaced frames: the middle of each of `frames` equal parts of `count`. A
    video that has fewer gives fewer."""
    return sorted({(2 * k + 1) * count // (2 * frames) for k in range(frames)}) if count else []


def read_frames(path: Path, frames: int) -> list[NDArray[np.uint8]]:
    """Uniformly spaced frames of a video, (height, width, 3) uint8, BGR as OpenCV has them.

    Frames of Motion JPEG stand alone: only those wanted are decoded. With other codings, frames are
    grabbed in order and only those wanted are converted: seeking would decode from the last key
    frame again each time. If fewer frames decode than the file holds (it is damaged), a second pass
    takes uniformly spaced ones of those; DataError if no frame decodes.

    Args:
        path: The video.
        frames: Number of wanted frames; a damaged video gives fewer.
    """
    with open_container(path) as container:
        count, coding = _packets(container)
        wanted = _positions(count, frames)
        picked = _pick(container, wanted) if wanted and coding == _MOTION_JPEG else []
    if picked and len(picked) == len(wanted):
        return picked
    images, seen = _pass(path, wanted)
    if len(images) < len(wanted) and seen < count:
        images, _ = _pass(path, _positions(seen, frames))
    if not images:
        raise DataError("holds no frame that can be decoded")
    return images


def _packets(container: Any) -> tuple[int, str]:
    """Packets of the picture track, one a frame, and its coding. They are read, not decoded, which
    costs next to nothing, and unlike the count in a container's header it is never a promise."""
    import av

    if not container.streams.video:
        raise DataError("has no picture track")
    context, count = container.streams.video[0].codec_context, 0
    with contextlib.suppress(av.FFmpegError):  # a file that breaks off while it is read
        for packet in container.demux(video=0):
            count += bool(packet.size)
    return count, "" if context is None else context.name


def _pick(container: Any, wanted: list[int]) -> list[NDArray[np.uint8]]:
    """The wanted frames of a track whose frames stand alone, equal to those of `_pass`; none of
    a track that has to be turned or does not decode."""
    import av
    from av.video.reformatter import Interpolation

    convert = _converter()
    images: list[NDArray[np.uint8]] = []
    with contextlib.suppress(av.FFmpegError):
        container.streams.video[0].codec_context.thread_count = 1
        container.seek(0)
        packets = (packet for packet in container.demux(video=0) if packet.size)
        for index, packet in enumerate(itertools.islice(packets, wanted[-1] + 1)):
            if index not in wanted:
                continue
            decoded = packet.decode()
            if len(decoded) != 1 or decoded[0].rotation:
                return []
            # OpenCV converts alike.
            bgr = convert.reformat(decoded[0], format="bgr24", interpolation=Interpolation.BICUBIC)
            images.append(np.asarray(bgr.to_ndarray(), np.uint8))
    return images


@functools.cache
def _converter() -> Any:
    """The converter of all files of a process. Only another size or form sets it up anew."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def _pass(path: Path, wanted: list[int]) -> tuple[list[NDArray[np.uint8]], int]:
    """The wanted frames (ascending) that decode, and the number of frames passed."""
    cv2 = load_library("cv2")

    # One thread a worker: files are decoded side by side.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DataError("cannot be decoded as a video (damaged, or its coding is not known here)")
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
