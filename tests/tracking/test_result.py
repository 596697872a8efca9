"""result.json: what commit 6194286 wrote is read and written as it was, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.results import beside_yardsticks, shapes
from tracking.result import (
    RESULT,
    Choices,
    PairedDifference,
    Range,
    ResultError,
    StudyResult,
)
from tracking.uri import default_uri

RECORDED = Path(__file__).parent / "data" / RESULT
"""Of a study of commit 6194286, shortened: lists have one to three entries."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder in ./runs, whose commands need no --runs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    return folder


def test_a_file_of_an_earlier_release_is_read_and_written_as_it_was(study: Path) -> None:
    text = RECORDED.read_text()
    (study / RESULT).write_text(text)
    result = StudyResult.load(study)
    again = json.loads(result.to_json())
    assert again.pop("effects") == {} and again.pop("yardsticks") == []
    assert again.pop("folds") == 0
    assert again["test"].pop("yardsticks") == []
    for name in ("ended", "runs", "budget", "seeds_each", "noise"):
        assert again["confirm"].pop(name) == ("budget" if name == "ended" else None)
    for setting in again["confirm"]["settings"]:
        assert setting.pop("behind") is None
    assert json.dumps(again, indent=1) + "\n" == text, "its keys, their order, and all digits"
    assert result.space["layers"] == Range("int", 0, 3, log=False)
    assert result.space["context"] == Choices("categorical", ("bank", None))
    assert result.confirm is not None and result.test is not None
    assert result.confirm.settings[0].trial == result.confirm.winner == 44
    assert (result.confirm.runs, result.confirm.settings[1].behind, result.effects) == (
        None, None, {}
    ), "what an earlier release did not write"  # fmt: skip
    assert result.test.again[0].before == 0.7
    assert result.trials[-1].values[0] == (1, result.trials[-1].values[0][1])


def test_yardsticks_are_saved_and_loaded(study: Path) -> None:
    result = beside_yardsticks(shapes()["whole"])
    result.save(study)
    assert StudyResult.load(study) == result
    values = json.loads((study / RESULT).read_text())
    assert values["test"]["yardsticks"][1]["difference"]["p"] == 0.0312


@pytest.mark.parametrize("name", ["whole", "wide", "hostile", "bare", "no-trials", "one-seed"])
def test_what_is_saved_is_loaded(name: str, study: Path) -> None:
    result = shapes()[name]
    result.save(study)
    loaded = StudyResult.load(study)
    assert loaded.to_json() == result.to_json()
    if name != "one-seed":  # NaN is not equal to itself
        assert loaded == result


def test_a_result_is_written_whole_or_not_at_all(study: Path) -> None:
    result = shapes()["whole"]
    result.save(study)
    with pytest.raises(TypeError):
        replace(result, fixed={"lr": object()}).save(study)  # type: ignore[dict-item]
    assert StudyResult.load(study) == result
    assert [file.name for file in study.iterdir()] == [RESULT]


def test_a_result_that_was_moved_names_its_database_and_its_command_there(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another working folder, and where an earlier release wrote absolute places."""
    result = replace(shapes()["whole"], tracking_uri=default_uri(study.parent))
    result.save(study)
    runs = study.parent.rename(study.parents[1] / "a%20b")
    moved = StudyResult.load(runs / "s")
    assert moved.tracking_uri == default_uri(runs)
    assert moved.command == f"{result.command} --runs {runs}"
    (runs / "s" / RESULT).write_text(result.to_json())
    (runs / "mlflow.db").touch()
    assert StudyResult.load(runs / "s").tracking_uri == default_uri(runs)


DAMAGE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda r: r.update(format=1), "written by another version"),
    (lambda r: r.pop("checks"), "written by another version"),
    (lambda r: r.update(more=1), "written by another version"),
    (lambda r: r.update(wanted="50"), "wanted is '50'"),
    (lambda r: r["trials"][1].pop("value"), r"trials\[1\]: value missing"),
    (lambda r: r["trials"][1].update(value="0.7"), r"trials\[1\].value is '0.7'"),
    (lambda r: r["trials"][0]["values"][2].append(1), r"trials\[0\].values\[2\] is"),
    (lambda r: r["test"]["interval"].update(low=True), "test.interval.low is 'True'"),
    (lambda r: r["test"].update(yardsticks=[{}]), r"test.yardsticks\[0\]: difference, interval"),
    (lambda r: r.update(yardsticks=1), "yardsticks is '1'"),
    (lambda r: r["space"]["lr"].update(type="real"), r"space\['lr'\].type is 'real'"),
    (lambda r: r["fixed"].update(lr=[1]), r"fixed\['lr'\] is '\[1\]'"),
    (lambda r: r.update(confusion=None), "confusion: test, validation missing"),
    (lambda r: r.update(counts=[]), "counts is"),
    (lambda r: r["confirm"].update(settings={}), "confirm.settings is"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
def test_damage_is_named(
    damage: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    values = json.loads(RECORDED.read_text())
    damage(values)
    (tmp_path / RESULT).write_text(json.dumps(values))
    with pytest.raises(ResultError, match=words) as raised:
        StudyResult.load(tmp_path)
    assert len(str(raised.value).splitlines()) == 1 and RESULT in str(raised.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0123, "above it by 0.0123 (-0.0177 .. +0.0423, p = 0.0400)"),
        (-0.0123, "below it by 0.0123 (-0.0423 .. +0.0177, p = 0.0400)"),
        (-0.00001, "level with it (-0.0300 .. +0.0300, p = 0.0400)"),
        (0.0, "level with it (-0.0300 .. +0.0300, p = 0.0400)"),
    ],
)
def test_a_difference_says_where_the_winner_lies(value: float, words: str) -> None:
    assert PairedDifference(value, value - 0.03, value + 0.03, 0.04).words("it") == words


def test_a_bound_of_nothing_has_no_minus() -> None:
    assert "(+0.000 .. +0.000, " in PairedDifference(-0.0001, -0.0001, 0.0, 1.0).words("it", 3)
