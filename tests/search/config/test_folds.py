"""--folds auto: what a new study gets, and that one which exists keeps what it has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from fdan.data.split import NO_FOLDS
from fdan.data.task import Task
from search.cli.main import parse
from search.config.folds import decide_folds, folds_line
from search.config.spec import StudySpec, resolve
from search.study.folder import write_study_file
from search.study.identity import RequestedStudy, check_same_study
from tests.tasks import acted, task_of

FOUR, TWELVE = task_of(acted("ABCD")), task_of(acted("ABCDEFGHIJKL"))


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return resolve(parse(["--runs", str(tmp_path), "--study", "s"]).options)


@pytest.mark.parametrize(
    ("task", "folds", "line"),
    [
        (FOUR, "loso", "folds loso: 3 speakers are left for training and validation, fewer than 8"),
        (TWELVE, "none", "one split: 9 speakers are left for training and validation, which is"),
    ],
)
def test_a_new_study_has_folds_where_few_speakers_are_left(
    spec: StudySpec, task: Task, folds: str, line: str
) -> None:
    decided = decide_folds(spec, task)
    assert decided.spec.settings.split.folds == folds
    assert folds_line(decided).startswith(line)
    # What is decided is what the study is: its identity, and what its workers and MLflow are given.
    assert decided.spec.identity("data").split["folds"] == folds
    assert decided.spec.settings.values["folds"] == folds


def test_what_was_chosen_stays(tmp_path: Path) -> None:
    words = ["--runs", str(tmp_path), "--study", "s", "--folds"]
    for folds in ("none", "2"):
        decided = decide_folds(resolve(parse([*words, folds]).options), FOUR)
        assert str(decided.spec.settings.split.folds) == folds and folds_line(decided) == ""


@pytest.mark.parametrize("before", [NO_FOLDS, "loso", 2, None])
def test_a_study_keeps_the_folds_that_it_has(
    spec: StudySpec, tmp_path: Path, before: int | str | None
) -> None:
    """None recorded: of a release that had no folds."""
    (tmp_path / "s").mkdir()
    identity = spec.with_folds(NO_FOLDS if before is None else before).identity("data")
    facts = asdict(identity)
    if before is None:
        del facts["split"]["folds"], facts["split"]["outer"]
    write_study_file(tmp_path / "s", {"id": "1", "storage": "journal", **facts})
    for task in (FOUR, TWELVE):
        decided = decide_folds(spec, task)
        assert decided.spec.settings.split.folds == (NO_FOLDS if before is None else before)
        assert "as this study has had from its beginning" in folds_line(decided)
        again = decided.spec.identity("data")
        check_same_study(RequestedStudy("s", tmp_path / "s", "journal", again))


def test_another_protocol_is_not_given_the_folds_of_the_first(
    spec: StudySpec, tmp_path: Path
) -> None:
    """It is refused for its protocol, not for folds that nobody asked for."""
    (tmp_path / "s").mkdir()
    facts = asdict(spec.with_folds("loso").identity("data"))
    write_study_file(tmp_path / "s", {"id": "1", "storage": "journal", **facts})
    words = ["--runs", str(tmp_path), "--study", "s", "--protocol", "paper"]
    decided = decide_folds(resolve(parse(words).options), FOUR)
    assert decided.spec.settings.split.folds == NO_FOLDS
