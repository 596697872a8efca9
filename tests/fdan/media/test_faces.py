"""The largest face beside OpenCV's own search through windows of all sizes; what images hold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fdan.corpora.demo import generate
from fdan.corpora.listing import IMAGE
from fdan.errors import DataError
from fdan.media import cascade
from fdan.media.cascade import Box, largest_face
from fdan.media.faces import FaceSettings, is_still, read_image
from fdan.media.pixels import read_pixels
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
    folder = generate(tmp_path_factory.mktemp("demo"), speakers=2, takes=1, uneven=False)
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


# --- what a still image holds


def textured() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)


@pytest.mark.parametrize(
    "suffix", ["webp", "tiff", "gif", "pgm", "ppm", "avif", "jp2", "jfif", "jpe", "bmp"]
)
def test_kinds_of_images(suffix: str, tmp_path: Path) -> None:
    image = cv2.GaussianBlur(textured(), (0, 0), 6)
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    if suffix == "pgm":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    path = tmp_path / f"a.{suffix}"
    _, encoded = cv2.imencode(".jpg" if suffix in ("jfif", "jpe") else f".{suffix}", image)
    path.write_bytes(encoded.tobytes())
    read = read_image(path)
    assert read.shape == (60, 60, 3)
    # A GIF has 256 colours.
    np.testing.assert_allclose(read.mean(axis=2), image.reshape(60, 60, -1).mean(axis=2), atol=60)


@pytest.mark.parametrize("suffix", IMAGE)
def test_each_kind_of_still_is_known_by_its_content(suffix: str) -> None:
    """As a model that is served gets it, without a name."""
    coding = {".jfif": ".jpg", ".jpe": ".jpg"}.get(suffix, suffix)
    image = textured()[:, :, 0] if suffix == ".pgm" else textured()
    assert is_still(cv2.imencode(coding, image)[1].tobytes())


def test_a_film_is_no_still(tmp_path: Path) -> None:
    for name, coding in (("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG")):
        film = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*coding), 5, (60, 60))
        film.write(textured())
        film.release()
        content = (tmp_path / name).read_bytes()
        assert content and not is_still(content), name
    for head in (
        b"",
        b"RIFF1234WAVE",
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        b"\0\0\1\xba",
    ):
        assert not is_still(head)


def test_of_an_animation_the_first_picture_is_taken(tmp_path: Path) -> None:
    animation = cv2.Animation()
    animation.frames = [np.full((60, 60, 4), value, np.uint8) for value in (40, 200, 250)]
    for frame in animation.frames:
        frame[:, :, 3] = 255
    animation.durations = [100, 100, 100]
    assert cv2.imwriteanimation(str(tmp_path / "a.gif"), animation)
    assert abs(float(read_image(tmp_path / "a.gif").mean()) - 40) < 10


@pytest.mark.parametrize(
    ("bits", "top"), [(8, 255), (10, 1023), (12, 4095), (16, 65535)], ids=lambda value: str(value)
)
def test_16_bit_images_are_scaled_by_the_bits_that_they_use(
    bits: int, top: int, tmp_path: Path
) -> None:
    image = textured()
    image[0, 0] = 255
    deep = (image.astype(np.uint16) << (bits - 8)) | (top >> 8 if bits > 8 else 0)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    alpha = np.full((60, 60, 1), 65535, np.uint16)
    cv2.imwrite(str(tmp_path / "b.png"), np.concatenate([deep, alpha], axis=2))
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floating_point_images(white: float, tmp_path: Path) -> None:
    image = textured()
    image[0, 0] = 255
    cv2.imwrite(str(tmp_path / "a.tiff"), (image / 255 * white).astype(np.float32))
    np.testing.assert_allclose(read_image(tmp_path / "a.tiff"), image, atol=1)


@pytest.mark.parametrize(
    ("kind", "white"),
    [(kind, white) for kind in ("float32", "float64") for white in (1, 255, 65535)]
    + [(kind, white) for kind in ("int16", "int32") for white in (255, 4095)]
    + [("int32", 65535), ("uint16", 65535)],
)
def test_grey_images_of_any_depth(
    kind: str, white: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grey = textured()[:, :, 0]
    grey[0, 0] = 255
    cv2.imwrite(str(tmp_path / "a.tiff"), (grey / 255 * white).astype(kind))
    read = read_image(tmp_path / "a.tiff")
    np.testing.assert_allclose(read, grey[:, :, None].repeat(3, axis=2), atol=1)
    assert not capfd.readouterr().err


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = np.concatenate([textured(), np.zeros((60, 60, 1), np.uint8)], axis=2)
    image[20:40, 20:40, 3] = 255
    image[0, 0] = (0, 0, 0, 128)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read[20:40, 20:40], image[20:40, 20:40, :3])
    assert (read[45:] == 255).all() and (read[0, 0] == 127).all()


@pytest.mark.parametrize("what", ["black", "red", "transparent"])
def test_blank_pictures_are_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if what == "transparent":
        cv2.imwrite(str(path), np.concatenate([textured(), np.zeros((60, 60, 1), np.uint8)], 2))
    else:
        image = np.zeros((60, 60, 3), np.uint8)
        image[:, :, 2] = 200 * (what == "red")
        cv2.imwrite(str(path), image)
    with pytest.raises(DataError, match="is blank"):
        read_pixels(path, FaceSettings(face_size=32))
