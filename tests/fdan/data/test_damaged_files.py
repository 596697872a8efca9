"""What the benchmark with mutated files found, one by one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from fdan.corpora import Listing, Source, read
from fdan.errors import DataError
from fdan.media.audio import read_speech
from fdan.media.faces import CENTRE, FaceSettings
from fdan.media.pixels import Pixels, read_pixels
from fdan.media.pool import DecoderPool
from fdan.media.worker import MEMORY_MB

RATE = 16000
FACES = FaceSettings(face_size=16)


def noise(seconds: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


# --- memory


def write_jpg(path: Path, side: int | None = None) -> Path:
    """A small picture, which says that its sides are `side` pixels."""
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = bytearray(cv2.imencode(".jpg", image)[1])
    if side is not None:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = 2 * side.to_bytes(2, "big")
    path.write_bytes(data)
    return path


def test_a_file_that_eats_memory_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    paths = [write_jpg(tmp_path / f"{number}.jpg") for number in range(12)]
    write_jpg(paths[2], side=30_000)  # 2.7 GB
    with DecoderPool(FACES, 1, timeout_s=60) as pool:
        answers = list(pool.read(paths))
    assert (
        answers[2]
        == f"needs more than {MEMORY_MB} MB of memory (damaged, or far too long or large)"
    )
    assert sum(isinstance(answer, Pixels) for answer in answers) == 11


# --- sound


@pytest.mark.parametrize("total", [0, 1 << 33, (1 << 36) - 1])
def test_flac_that_does_not_say_how_long_it_is(total: int, tmp_path: Path) -> None:
    """0 is what FLAC's own tools write into a pipe; the others would be 32 and 256 GiB."""
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(), RATE)
    expected = read_speech(path, RATE)
    data = bytearray(path.read_bytes())
    kept = int.from_bytes(data[21:26], "big") >> 36 << 36  # STREAMINFO's last 36 bits of 40
    data[21:26] = (kept | total).to_bytes(5, "big")
    path.write_bytes(data)
    np.testing.assert_allclose(read_speech(path, RATE), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [1, 2**32 - 1])
def test_sample_rates_that_nothing_has(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), RATE)
    data = bytearray(path.read_bytes())
    data[24:28] = rate.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"sample rate|cannot be decoded"):
        read_speech(path, RATE)


def test_sound_in_an_unknown_coding(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(), RATE)
    data = bytearray(path.read_bytes())
    data[20:22] = b"\xee\xee"
    path.write_bytes(data)
    with pytest.raises(DataError, match="in a coding that is not known here"):
        read_speech(path, RATE)


# --- pictures


@pytest.mark.parametrize("shape", [(2, 3000, 3), (3000, 2, 3)])
def test_a_picture_that_is_next_to_a_line(shape: tuple[int, int, int], tmp_path: Path) -> None:
    picture = np.arange(np.prod(shape)).reshape(shape) % 251
    cv2.imwrite(str(tmp_path / "a.png"), picture.astype(np.uint8))
    assert read_pixels(tmp_path / "a.png", FACES).counts == {CENTRE: 1}


# --- MELD's tables

HEADER = "Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID\n"
ROWS = ["a,Ross,joy,0,0\n", "b,Joey,anger,0,1\n", "c,Ross,sadness,0,2\n"]


def meld(root: Path, table: str | bytes) -> Listing:
    """MELD's training part: three clips, and this table."""
    (root / "train_splits").mkdir()
    for number in range(3):
        (root / "train_splits" / f"dia0_utt{number}.mp4").touch()
    data = table.encode() if isinstance(table, str) else table
    (root / "train_sent_emo.csv").write_bytes(data)
    return read(Source("meld", root, "visual"))


def reasons(listing: Listing) -> list[str]:
    return [problem.reason for problem in listing.problems]


def test_a_table_without_damage(tmp_path: Path) -> None:
    listing = meld(tmp_path, HEADER + "".join(ROWS))
    assert len(listing.rows) == 3 and not listing.problems and not listing.skipped


def test_a_table_that_breaks_off(tmp_path: Path) -> None:
    listing = meld(tmp_path, HEADER + "".join(ROWS)[:-2])
    assert len(listing.rows) == 2
    assert reasons(listing) == ["line 4: no dialogue or utterance number"]
    assert listing.skipped == {"clip without a usable row": 1}


def test_a_clip_in_two_rows_is_read_once(tmp_path: Path) -> None:
    listing = meld(tmp_path, HEADER + "".join([*ROWS[:2], "c,Ross,fear,0,0\n", *ROWS[:2]]))
    assert [row.emotion for row in listing.rows] == ["happiness", "anger"]
    assert reasons(listing) == [
        "line 4: a clip that an earlier line has already (and 2 more lines)"
    ]
    assert listing.skipped == {"clip without a usable row": 1}


def test_many_bad_rows_are_one_problem(tmp_path: Path) -> None:
    listing = meld(tmp_path, HEADER + "".join(ROWS) + "x\n" * 100_000)
    assert reasons(listing) == ["line 5: no dialogue or utterance number (and 99999 more lines)"]


def test_cells_that_do_not_fit_a_line(tmp_path: Path) -> None:
    odd = ["a,Ross,\x1b[31m\x00" + "j" * 1000 + ",0,0\n", "b,Joey,joy,0," + "9" * 2000 + "\n"]
    listing = meld(tmp_path, HEADER + "".join([*ROWS[1:], *odd]))
    assert all(reason.isprintable() and len(reason) < 100 for reason in reasons(listing))
    assert "unknown emotion '\\x1b[31m" in reasons(listing)[0]
    assert reasons(listing)[1] == "line 5: no dialogue or utterance number"


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("", "train_sent_emo.csv is empty"),
        (HEADER + 'a,"b\n' + "c\n" * 100_000, "cannot be read beyond line .* quotation mark"),
        (HEADER + ROWS[0] + "z" * 9_000_000, "has 9 MB: is it MELD's own table"),
        ((HEADER + "".join(ROWS)).encode("utf-16"), "lacks the column Speaker"),
    ],
    ids=["empty", "open quotation mark", "too large", "UTF-16"],
)
def test_a_table_that_is_none(table: str | bytes, line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=line) as error:
        meld(tmp_path, table)
    assert "\n" not in str(error.value)
