"""fer2013.csv and its copies, line by line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fdan.corpora import Source, read
from fdan.errors import DataError
from fdan.media.faces import FaceSettings
from fdan.media.pixels import read_pixels

RANDOM = np.random.default_rng(0)


def picture(value: int | None = None) -> str:
    values = RANDOM.integers(0, 256, 48 * 48) if value is None else np.full(48 * 48, value)
    return " ".join(map(str, values))


def write(folder: Path, lines: list[str], head: str = "emotion,pixels,Usage") -> Path:
    table = folder / "fer2013.csv"
    table.write_text("\n".join([head, *lines]) + "\n")
    return table


def test_rows_are_samples_with_the_corpus_own_parts(tmp_path: Path) -> None:
    parts = ["Training", "PublicTest", "PrivateTest"]
    pictures = [picture() for _ in range(7)]
    table = write(tmp_path, [f'{k},"{p}",{parts[k % 3]}' for k, p in enumerate(pictures)])
    listing = read(Source("folders", tmp_path, "visual"))
    order = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    assert [row.emotion for row in listing.rows] == order
    assert [row.part for row in listing.rows] == ["train", "validation", "test"] * 2 + ["train"]
    assert [row.path for row in listing.rows[:2]] == [table / "2", table / "3"]
    assert listing.problems == () and listing.unused == {}
    pixels = read_pixels(table / "4", FaceSettings(face_size=48))
    expected = np.array(pictures[2].split(), np.uint8).reshape(48, 48, 1)
    np.testing.assert_array_equal(pixels.images[0], expected.repeat(3, axis=2))


def test_other_copies(tmp_path: Path) -> None:
    """Spaces before the columns' names, another order, contempt as 7, CRLF, a byte order mark."""
    lines = [f"{k},Training,{picture()}\r" for k in (0, 3, 7, 7)]
    table = write(tmp_path, lines, "\ufeffemotion, Usage, pixels\r")
    listing = read(Source("folders", tmp_path, "visual"))
    assert [row.emotion for row in listing.rows] == ["anger", "happiness"]
    assert [problem.reason for problem in listing.problems] == [
        "emotion '7' is not one of the seven: 2 rows left out"
    ]
    assert read_pixels(table / "2", FaceSettings(face_size=48)).images.shape == (1, 48, 48, 3)
    mapped = Source("folders", tmp_path, "visual", (("7", "disgust"), ("0", "sadness")))
    emotions = ["sadness", "happiness", "disgust", "disgust"]
    assert [row.emotion for row in read(mapped).rows] == emotions


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("blank", ["", "\n", "\r\n \r\n"])
def test_other_delimiters_and_blank_lines_before_the_header(
    delimiter: str, blank: str, tmp_path: Path
) -> None:
    pictures = [picture() for _ in range(3)]
    lines = [delimiter.join((str(k), p, "Training")) for k, p in enumerate(pictures)]
    head = delimiter.join(("emotion", ' "pixels"', "Usage"))
    table = write(tmp_path, lines, blank + head)
    listing = read(Source("folders", tmp_path, "visual"))
    assert [row.emotion for row in listing.rows] == ["anger", "disgust", "fear"]
    assert {row.part for row in listing.rows} == {"train"} and listing.problems == ()
    assert listing.rows[0].path == table / str(2 + blank.count("\n"))
    pixels = read_pixels(listing.rows[1].path, FaceSettings(face_size=48))
    expected = np.array(pictures[1].split(), np.uint8).reshape(48, 48, 1)
    np.testing.assert_array_equal(pixels.images[0], expected.repeat(3, axis=2))


def test_emotions_as_pandas_writes_them(tmp_path: Path) -> None:
    write(tmp_path, [f"{word},{picture()},Training" for word in ("0.0", "3.", "6", "7.0", "1.5")])
    listing = read(Source("folders", tmp_path, "visual"))
    assert [row.emotion for row in listing.rows] == ["anger", "happiness", "neutral"]
    assert [problem.reason.partition(":")[0] for problem in listing.problems] == [
        f"emotion '{word}' is not one of the seven" for word in ("7.0", "1.5")
    ]
    mapped = read(Source("folders", tmp_path, "visual", (("7", "fear"), ("1.5", "fear"))))
    assert len(mapped.rows) == 5 and mapped.problems == ()


def test_the_table_itself_is_a_source(tmp_path: Path) -> None:
    table = write(tmp_path, [f"{k},{picture()},Training" for k in range(3)])
    (tmp_path / "angry").mkdir()
    (tmp_path / "angry" / "1.jpg").touch()
    listing = read(Source("folders", table, "visual"))
    assert [row.path for row in listing.rows] == [table / str(k) for k in (2, 3, 4)]
    assert listing.problems == ()
    with pytest.raises(DataError, match="is not a folder; give the folder"):
        read(Source("folders", table, "acoustic"))
    write(tmp_path, [f"9,{picture()},Training"])
    with pytest.raises(DataError, match="emotion '9' is not one of the seven"):
        read(Source("folders", table, "visual"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fer2013.csv", "emotion,pixels\n0,1 2 3 4\n".encode("utf-16"), "save it as such, not as"),
        ("fer2013.csv", b"0,1 2 3 4,Training\n", "names the columns emotion and pixels was not"),
        ("fer2013.csv", b"", "names the columns emotion and pixels was not"),
        ("fer2013.csv.gz", b"\x1f\x8b", "is packed, unpack it first"),
        ("FER2013.zip", b"PK", "is packed, unpack it first"),
    ],
)
def test_what_a_table_that_is_not_read_lacks(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "another.csv").write_text("a,b\n")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError) as error:
            read(Source("folders", path, "visual"))
        assert words in str(error.value) and name in str(error.value)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (picture(0), "is blank"),
        ("1 2 3", "has 3 pixels, which make no square picture"),
        (" ".join(["300"] * 4), "no numbers from 0 to 255"),
        ("", "has no pixels"),
    ],
)
def test_rows_that_cannot_serve(pixels: str, words: str, tmp_path: Path) -> None:
    table = write(tmp_path, [f"0,{picture()},Training", f"1,{pixels},Training"])
    with pytest.raises(DataError, match=words):
        read_pixels(table / "3", FaceSettings())


def test_a_table_beside_class_folders_is_told(tmp_path: Path) -> None:
    table = write(tmp_path, [f"0,{picture()},Training"])
    for name in ("angry", "happy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    listing = read(Source("folders", tmp_path, "visual"))
    assert len(listing.rows) == 2 and [p.path for p in listing.problems] == [table]
    with pytest.raises(DataError, match=r"holds fer2013.csv, a table of pixels"):
        read(Source("savee", tmp_path, "visual"))


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fer2013.csv")
    with pytest.raises(DataError, match=r"no visual file of this corpus below it; it holds 1 .csv"):
        read(Source("folders", tmp_path, "visual"))
