"""Frames V1, V2, V3 of a video, uniformly spaced, decoded in one forward pass (section 3.2)."""

import contextlib
import functools
import itertools
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fdan.errors import DataError
from fdan.machine.libraries import load_library
from fdan.media.container import find_stream, open_container

_MOTION_JPEG: Final = "mjpeg"  # the coding of many films that are cut or played frame by frame


def _positions(count: int, frames: int) -> list[int]:
    """Indices of uniformly spaced frames: the middle of each of `frames` equal parts of `count`. A
    video that has fewer gives fewer."""
    return sorted({(2 * k + 1) * count // (2 * frames) for k in range(frames)}) if count else []


def read_frames(
    path: Path, frames: int, counts: Counter[str] | None = None
) -> list[NDArray[np.uint8]]:
    """Uniformly spaced frames of a video, (height, width, 3) uint8, BGR as OpenCV has them.

    Frames of Motion JPEG stand alone: only those wanted are decoded. With other codings, frames are
    grabbed in order and only those wanted are converted: seeking would decode from the last key
    frame again each time. If fewer frames decode than the file holds (it is damaged), a second pass
    takes uniformly spaced ones of those; DataError if no frame decodes.

    Args:
        path: The video.
        frames: Number of wanted frames; a damaged video gives fewer.
        counts: Counter that is told of more picture tracks than one.
    """
    with open_container(path) as container:
        stream = find_stream(container, "video", Counter() if counts is None else counts)
        if stream is None:
            covers = bool(container.streams.video)
            raise DataError(f"has no picture track{', only a cover picture' if covers else ''}")
        count = _count_packets(container, stream)
        wanted = _positions(count, frames)
        coding = "" if stream.codec_context is None else stream.codec_context.name
        picked = _pick(container, stream, wanted) if wanted and coding == _MOTION_JPEG else []
        index, first = stream.index, container.streams.video[0].index
    if picked and len(picked) == len(wanted):
        return picked
    # OpenCV sees a film's first picture track alone.
    decode = _pass if index == first else functools.partial(_pass_stream, stream=index)
    images, seen = decode(path, wanted)
    if len(images) < len(wanted) and seen < count:
        images, _ = decode(path, _positions(seen, frames))
    if not images:
        raise DataError("holds no frame that can be decoded")
    return images


def _count_packets(container: Any, stream: Any) -> int:
    """Packets of a picture track, one a frame. They are read, not decoded, which costs next to
    nothing, and unlike the count in a container's header it is never a promise."""
    import av

    count = 0
    with contextlib.suppress(av.FFmpegError):  # a file that breaks off while it is read
        for packet in container.demux(stream):
            count += bool(packet.size)
    return count


def _pick(container: Any, stream: Any, wanted: list[int]) -> list[NDArray[np.uint8]]:
    """The wanted frames of a track whose frames stand alone, equal to those of `_pass`; none of
    a track that has to be turned or does not decode."""
    import av

    images: list[NDArray[np.uint8]] = []
    with contextlib.suppress(av.FFmpegError):
        stream.codec_context.thread_count = 1
        container.seek(0)
        packets = (packet for packet in container.demux(stream) if packet.size)
        for index, packet in enumerate(itertools.islice(packets, wanted[-1] + 1)):
            if index not in wanted:
                continue
            decoded = packet.decode()
            if len(decoded) != 1 or decoded[0].rotation:
                return []
            images.append(_to_bgr(decoded[0]))
    return images


def _to_bgr(frame: Any) -> NDArray[np.uint8]:
    """The pixels of an av.VideoFrame, (height, width, 3), as OpenCV converts them."""
    from av.video.reformatter import Interpolation

    bgr = _converter().reformat(frame, format="bgr24", interpolation=Interpolation.BICUBIC)
    return np.asarray(bgr.to_ndarray(), np.uint8)


@functools.cache
def _converter() -> Any:
    """The converter of all files of a process. Only another size or form sets it up anew."""
    from av.video.reformatter import VideoReformatter

    return VideoReformatter()


def _pass_stream(path: Path, wanted: list[int], stream: int) -> tuple[list[NDArray[np.uint8]], int]:
    """As `_pass`, of the stream of a given index."""
    import av

    images: list[NDArray[np.uint8]] = []
    seen = 0
    with open_container(path) as container, contextlib.suppress(av.FFmpegError):
        container.streams[stream].codec_context.thread_count = 1
        for frame in container.decode(container.streams[stream]):
            if seen in wanted:
                # As a player turns it, and OpenCV.
                images.append(np.rot90(_to_bgr(frame), round(frame.rotation / 90)))
            seen += 1
            if seen > max(wanted, default=0):
                break
    return images, seen


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
