"""A part's predictions: the same numbers after writing and reading, a damaged file in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.evaluation.predictions import COLUMNS, Predictions

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=12)


def made(n: int = 40, seed: int = 0, names: tuple[str, ...] = ("DC", "JE", "KL")) -> Predictions:
    """A model that is right now and then."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 7, n)
    raw = random.random((n, 7)) ** 3
    raw[np.arange(n), truth] += random.random(n)
    return Predictions(
        contents=tuple(f"{i:064x}" for i in range(n)),
        utterances=tuple(f"u{i}" for i in range(n)),
        speakers=tuple(names[i % len(names)] for i in range(n)),
        truth=truth,
        probabilities=raw / raw.sum(1, keepdims=True),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    predictions = made()
    predictions.write(file)
    back = Predictions.read(file)
    np.testing.assert_array_equal(back.probabilities, predictions.probabilities)
    np.testing.assert_array_equal(back.truth, predictions.truth)
    assert back.truth.dtype == np.int64
    for name in ("contents", "utterances", "speakers"):
        assert getattr(back, name) == getattr(predictions, name)
    assert file.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["test.csv"]


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.tuples(NAMES, st.none() | NAMES.filter(bool)), min_size=1, max_size=4))
def test_any_name_comes_back(
    names: list[tuple[str, str | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("names") / "p.csv"
    n = len(names)
    predictions = Predictions(
        tuple("ab" * 32 for _ in names),
        tuple(utterance for utterance, _ in names),
        tuple(speaker for _, speaker in names),
        np.zeros(n, dtype=np.int64),
        np.full((n, 7), 1 / 7),
    )
    predictions.write(file)
    back = Predictions.read(file)
    assert back.utterances == predictions.utterances
    assert back.speakers == predictions.speakers


def test_scores_worked_by_hand() -> None:
    # Truth: anger 3 times, fear once. Said: anger, anger, fear; fear.
    said = np.eye(7)[[0, 0, 2, 2]]
    predictions = Predictions(
        tuple(f"{i:064x}" for i in range(4)),
        ("a", "b", "c", "d"),
        ("DC", "JE", "JE", None),
        np.array([0, 0, 0, 2]),
        said,
    )
    found = predictions.measures()
    assert (found.war, found.uar) == (3 / 4, pytest.approx((2 / 3 + 1) / 2))
    assert predictions.per_class() == {
        "anger": {"recall": 2 / 3, "precision": 1.0, "samples": 3},
        "fear": {"recall": 1.0, "precision": 0.5, "samples": 1},
    }
    assert predictions.per_speaker() == {
        "DC": {"uar": 1.0, "war": 1.0, "samples": 1},
        "JE": {"uar": 0.5, "war": 0.5, "samples": 2},
    }


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    made().write(file)
    before = file.read_bytes()
    broken = made(seed=1)
    object.__setattr__(broken, "utterances", (*broken.utterances[:-1], _Unwritable()))
    with pytest.raises(TypeError, match="no text"):
        broken.write(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["test.csv"]


class _Unwritable:
    def __str__(self) -> str:
        raise TypeError("no text")


def _changed(old: str, new: str) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return damage


def _cut(size: int) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[:size]) and None


def _probability(text: str) -> Callable[[Path], None]:
    """In the first row's last column."""

    def damage(file: Path) -> None:
        head, row, *rest = file.read_text().splitlines()
        row = row.rpartition(",")[0] + f",{text}"
        file.write_text("\n".join([head, row, *rest]) + "\n")

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"\x80\x04\x95\x00pickle\x94."),
        lambda file: file.write_text(",".join(COLUMNS) + "\n"),
        _cut(-2),
        _cut(-30),
        _cut(700),
        _changed("content,", "contents,"),
        _changed("0" * 63 + "1", "../../passwd"),
        _changed(f",{EMOTIONS[0]},", ",calm,"),
        _changed(",DC,", ",DC"),
        _changed(",u0,", ',"u0,'),
        _probability("nan"),
        _probability("-0.5"),
        _probability("0.9"),
        _probability("many"),
    ],
)
def test_a_damaged_file_is_one_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    made().write(file)
    damage(file)
    with pytest.raises(DataError, match=r"test\.csv") as caught:
        Predictions.read(file)
    assert "\n" not in str(caught.value)


def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    predictions = made(1)
    predictions.write(file)
    said = EMOTIONS[predictions.predicted[0]]
    other = next(emotion for emotion in EMOTIONS if emotion != said)
    head, row = file.read_text().splitlines()
    cells = row.split(",")
    cells[4] = other
    file.write_text(f"{head}\n{','.join(cells)}\n")
    with pytest.raises(DataError, match=f"row 2: predicted '{other}'"):
        Predictions.read(file)
