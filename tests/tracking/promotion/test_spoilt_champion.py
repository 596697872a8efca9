"""A champion with spoilt files: no winner is compared with it, no rollback restores it."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fdan.evaluation.predictions import Predictions
from tests.finished import link
from tests.tracking import by_hand
from tracking.promotion.promote import PromotionOptions, promote
from tracking.promotion.rollback import rollback
from tracking.registry.registry import CHAMPION, Registry, RegistryError

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from conftest import Tables

Spoil = Callable[[Path], None]


def _pickle_beside(place: Path) -> None:
    (place / "python_model.pkl").write_bytes(pickle.dumps(print))


def _half(place: Path) -> None:
    file = place / "artifacts/model/model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _gone(place: Path) -> None:
    (place / "artifacts/model/model.json").unlink()


def _no_answers(place: Path) -> None:
    (place / "artifacts/model/test.csv").unlink()


def _other_answers(place: Path) -> None:
    """Well-formed, and wrong throughout: by it anybody would be better than the champion."""
    file = place / "artifacts/model/test.csv"
    theirs = Predictions.read(file)
    file.unlink()
    wrong = np.eye(7)[(theirs.truth + 1) % 7]
    dataclasses.replace(theirs, probabilities=wrong).write(file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pickle_beside, "python_model.pkl is a pickle by its name"),
        (_half, "model.safetensors is damaged"),
        (_gone, "is no model of fdan-search"),
        (_no_answers, "holds no test.csv"),
        (_other_answers, "test.csv is not the file that was registered"),
    ],
)
def test_no_winner_is_compared_with_a_spoilt_champion(
    database: Tables, finished: Path, tmp_path: Path, cache: Path, spoil: Spoil, words: str
) -> None:
    """Refused with one line."""
    registry = Registry(database.uri, "fdan")
    spoil(by_hand.files(by_hand.champion(registry, finished / "bad")))
    before = database.rows("select * from model_versions"), registry.aliases()
    study = link(finished / "good", tmp_path / "good")
    verdict = promote(study, PromotionOptions(uri=database.uri))
    assert not verdict.promoted and words in verdict.reason and "\n" not in verdict.reason
    assert (database.rows("select * from model_versions"), registry.aliases()) == before


def test_no_rollback_to_a_spoilt_version(database: Tables, finished: Path, cache: Path) -> None:
    registry = Registry(database.uri, "fdan")
    for number, name in ((1, "bad"), (2, "good")):
        version = by_hand.champion(registry, finished / name)
        if number == 1:
            _half(by_hand.files(version))
            by_hand.name_alias(registry, "previous", "1")
    with pytest.raises(Exception, match="models:/fdan/1 is not used"):
        rollback(database.uri, "fdan", "no reason given")
    assert registry.aliases() == {CHAMPION: "2", "previous": "1"}


def test_no_champion_to_roll_back(database: Tables, cache: Path, tmp_path: Path) -> None:
    registry = Registry(database.uri, "fdan")
    with pytest.raises(RegistryError, match="nothing to roll back"):
        rollback(database.uri, "fdan", "no reason given")
    assert not registry.versions()
