"""Which of a film's picture tracks is read."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from fdan.errors import DataError
from fdan.media.container import SEVERAL_STREAMS
from fdan.media.video import _positions, read_frames

COUNT = 30
Disposition = av.stream.Disposition


def write(path: Path, *tracks: Disposition) -> None:
    """A film of 30 frames. In its last track frame i is grey of brightness 2 i; the others are
    bright. A cover is one picture."""
    with av.open(str(path), "w") as container:
        streams = []
        for disposition in tracks:
            cover = disposition == Disposition.attached_pic
            stream = container.add_stream("mjpeg" if cover else "mpeg4", rate=25)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if cover else "yuv420p"
            stream.disposition = disposition
            streams.append((stream, 1 if cover else COUNT))
        for index in range(COUNT):
            for number, (stream, count) in enumerate(streams):
                if index < count:
                    value = 2 * index if number == len(streams) - 1 else 240
                    grey = np.full((48, 64, 3), value, np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode(None))


def put_cover_first(path: Path) -> None:
    """Have an MP4's cover before its tracks, as some tools write it: it is stream 0 then."""
    data = path.read_bytes()

    def boxes(start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        while start < end:
            (size,) = struct.unpack_from(">I", data, start)
            yield data[start + 4 : start + 8], start, start + size
            start += size

    _, start, end = next(box for box in boxes(0, len(data)) if box[0] == b"moov")
    inner = sorted(boxes(start + 8, end), key=lambda box: box[0] != b"udta")
    moved = b"".join(data[first:last] for _, first, last in inner)
    path.write_bytes(data[: start + 8] + moved + data[end:])


def brightness(path: Path, counts: Counter[str]) -> list[int]:
    return [round(float(frame.mean()) / 2) for frame in read_frames(path, 3, counts)]


def test_a_cover_is_no_film(tmp_path: Path) -> None:
    path, counts = tmp_path / "a.mp4", Counter[str]()
    write(path, Disposition.attached_pic, Disposition.default)
    put_cover_first(path)
    with av.open(str(path)) as container:
        assert container.streams[0].disposition == Disposition.attached_pic
    np.testing.assert_allclose(brightness(path, counts), _positions(COUNT, 3), atol=2)
    assert not counts
    write(path, Disposition.attached_pic)
    with pytest.raises(DataError, match="has no picture track, only a cover picture"):
        read_frames(path, 3)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_default_picture_track_is_taken(suffix: str, tmp_path: Path) -> None:
    path, counts = tmp_path / f"a{suffix}", Counter[str]()
    write(path, Disposition(0), Disposition.default)
    np.testing.assert_allclose(brightness(path, counts), _positions(COUNT, 3), atol=2)
    assert counts == {SEVERAL_STREAMS["video"]: 1}
