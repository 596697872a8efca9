"""Which way a file is read in: only stores of what is read in another way now are made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fdan.media.pixels import reading


@pytest.mark.parametrize(
    ("name", "channels", "number"),
    [
        *(("a.wav", 1, 1), ("a.wav", 2, 3), ("a.flac", 1, 2), ("a.flac", 2, 3)),
        *(("a.mp3", 1, 3), ("a.ogg", 1, 3), ("a.aiff", 1, 3)),
    ],
)
def test_sound_that_may_have_channels_is_read_in_a_third_way(
    name: str, channels: int, number: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    soundfile.write(path, np.zeros((1600, channels), np.float32), 16000)
    assert reading(path, "acoustic") == number


@pytest.mark.parametrize(
    ("name", "number"), [("a.avi", 1), ("a.mp4", 2), ("a.png", 2), ("a.tif", 3), ("A.TIFF", 3)]
)
def test_tiff_images_are_read_in_a_third_way(name: str, number: int) -> None:
    assert reading(Path(name), "visual") == number
