"""The largest face beside OpenCV's own search through windows of all sizes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fdan.corpora.demo import generate
from fdan.media import cascade
from fdan.media.cascade import Box, largest_face
from fdan.media.faces import read_image
from fdan.media.video import read_frames

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

Grey = NDArray[np.uint8]


def all_sizes(grey: Grey, smallest: int) -> Box | None:
    faces = cascade._cascade().detectMultiScale(
        grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
    )
    boxes = [(x, y, w, h) for x, y, w, h in np.reshape(faces, (-1, 4)).tolist()]
    return max(boxes, key=lambda box: (box[2] * box[3], -box[1], -box[0]), default=None)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Grey]:
    """Faces of the demo corpus: (128, 128) each."""
    folder = generate(tmp_path_factory.mktemp("demo"), speakers=2, takes=1)
    files = sorted((folder / "VisualData").rglob("*.avi"))
    return [
        cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
        for file in files
        for frame in read_frames(file, 1)
    ]


def crowded(faces: list[Grey], rng: np.random.Generator) -> Grey:
    """A few faces of any size, reaching over each other and over the edges, in noise."""
    height, width = (int(side) for side in rng.integers(60, 260, 2))
    image = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 5)):
        side = int(rng.integers(24, 1.2 * min(height, width)))
        face = cv2.resize(faces[rng.integers(len(faces))], (side, side))
        left, top = int(rng.integers(-side // 4, width)), int(rng.integers(-side // 4, height))
        face = face[max(0, -top) :, max(0, -left) :]
        left, top = max(0, left), max(0, top)
        part = image[top : top + face.shape[0], left : left + face.shape[1]]
        part[:] = face[: part.shape[0], : part.shape[1]]
    return np.ascontiguousarray(image)


def test_the_largest_of_all_faces(drawn: list[Grey]) -> None:
    rng = np.random.default_rng(0)
    images = [*drawn, *(crowded(drawn, rng) for _ in range(120))]
    found = [largest_face(image, 24) for image in images]
    assert found == [all_sizes(image, 24) for image in images]
    assert sum(face is not None for face in found) > len(images) // 3


@pytest.mark.parametrize("smallest", [24, 30, 75])
def test_none_smaller_than_the_smallest(smallest: int, drawn: list[Grey]) -> None:
    rng = np.random.default_rng(1)
    for image in (crowded(drawn, rng) for _ in range(30)):
        assert largest_face(image, smallest) == all_sizes(image, smallest)


@pytest.mark.parametrize("shape", [(24, 24), (25, 400), (24, 23), (1, 1), (300, 40)])
def test_images_of_any_shape(shape: tuple[int, int]) -> None:
    for image in (np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
        assert largest_face(image, 24) is None
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert largest_face(noise, 24) == (all_sizes(noise, 24) if min(shape) >= 24 else None)


def test_small_windows_are_left_out(drawn: list[Grey], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    accepted = cascade._accepted

    def counting(grey: Grey, turn: list[int]) -> NDArray[np.int64]:
        sizes.extend(reversed(turn))
        return accepted(grey, turn)

    monkeypatch.setattr(cascade, "_accepted", counting)
    smallest = []
    for image in drawn:
        sizes.clear()
        face = largest_face(image, 24)
        assert sizes == sorted(set(sizes), reverse=True)
        if face is not None:
            smallest.append(sizes[-1] / face[2])
    assert len(smallest) > len(drawn) // 2
    assert float(np.median(smallest)) > 0.5
    sizes.clear()
    assert largest_face(np.zeros((60, 60), np.uint8), 24) is None
    assert sizes == [57, 51, 47, 43, 39, 35, 32, 29, 26, 24]  # nothing found: all were tried


def test_windows_still_to_come_change_nothing() -> None:
    """Windows at random around four places: whatever is called settled stays."""
    rng, settled = np.random.default_rng(4), 0
    for _ in range(8000):
        place = rng.integers(0, 4, rng.integers(7, 50))
        size = (rng.uniform(40, 130, 4)[place] * rng.uniform(0.8, 1.25, len(place))).astype(int)
        middle = rng.integers(100, 140, (4, 2))[place] + rng.integers(-4, 5, (len(place), 2))
        windows = np.column_stack([middle - size[:, None] // 2, size, size])
        tried = windows[size > 50]
        face = cascade._largest(tried, (400, 400))
        if face is not None and cascade._settled(tried, face, 50):
            settled += 1
            assert cascade._largest(windows, (400, 400)) == face
    assert settled > 1000


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_real_faces() -> None:
    """FER2013's, enlarged to all sizes in front of one another: the same ones are found."""
    rng, found = np.random.default_rng(2), 0
    files = sorted((SHARED / "fer2013/train").glob("*/*.jpg"))[::70]
    for file, behind in zip(files, reversed(files), strict=True):
        frame = cv2.resize(read_image(behind), (320, 240))
        side = int(rng.integers(40, 230))
        left, top = int(rng.integers(0, 320 - side)), int(rng.integers(0, 240 - side))
        frame[top : top + side, left : left + side] = cv2.resize(read_image(file), (side, side))
        grey = cv2.equalizeHist(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
        face = largest_face(grey, 30)
        assert face == all_sizes(grey, 30)
        found += face is not None
    assert found > len(files) // 3
