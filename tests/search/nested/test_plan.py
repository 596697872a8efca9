"""What a nested study consists of, and what is refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdan.errors import ConfigError, DataError
from search.cli.main import parse
from search.config.spec import StudySpec, resolve
from search.nested.pipeline import run_nested
from search.nested.plan import check_same_nested, plan_nested
from search.pipeline import run_study
from search.study.folder import StudyError, write_study_file
from search.study.identity import RequestedStudy, check_same_study
from tests.tasks import acted, fer, task_of

FOUR = task_of(acted("ABCD"))


def spec(runs: Path, *words: str) -> StudySpec:
    return resolve(parse(["--runs", str(runs), *words]).options)


def test_each_outer_fold_is_a_study_of_its_own(tmp_path: Path) -> None:
    words = ["--study", "n", "--nested", "loso", "--time-budget", "1h", "--confirm", "2"]
    plan = plan_nested(spec(tmp_path, *words), FOUR)
    assert (plan.name, plan.count) == ("n", 4)
    assert [dict(plan.speakers(n)) for n in plan.numbers] == [
        {name: 28} for name in ("AA", "BB", "CC", "DD")
    ]
    for number in plan.numbers:
        outer = plan.outer_spec(number, 600.4, {"fdan.nested": "n"})
        assert outer.study.study == f"n-outer-{number}" and outer.study.nested is None
        assert outer.settings.split.outer == f"{number}/4"
        assert outer.settings.split.folds == "loso", "decided once, for all of them"
        assert outer.confirm.scores_test and outer.confirm.count == 2
        assert outer.study.time_budget == 600
        assert outer.extra_tags == {"fdan.nested": "n"}
        assert outer.identity("d").split == outer.settings.split.as_dict()
    assert plan.outer_spec(1).study.time_budget is None, "the whole budget is nobody's"
    assert "3 speakers are left" in plan.folds_line and plan.inner_folds == 3
    twelve = plan_nested(spec(tmp_path, *words[:3], "4"), task_of(acted("ABCDEFGHIJKL")))
    assert twelve.inner_folds == 0 and twelve.outer_spec(1).settings.split.folds == "none"


def test_a_nested_study_without_a_name_is_not_called_as_the_search_is(tmp_path: Path) -> None:
    assert spec(tmp_path, "--nested", "2").name(FOUR) == "demo-nested"
    assert spec(tmp_path).name(FOUR) == "demo"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--protocol", "official"], "use --protocol speaker, or --protocol official without"),
        (["--protocol", "paper"], "use --protocol speaker, or --protocol paper without --nested"),
        (["--outer", "1/4"], "--outer 1/4 is one of them: leave one of the two out"),
        (["--test", "0.3"], "each outer fold is the test part of its own search"),
        (["--promote"], "leave out --promote, and promote from a study without --nested"),
        (["--score-again", "why"], "each outer fold is scored once: leave out --score-again"),
    ],
)
def test_what_it_cannot_be_combined_with(tmp_path: Path, words: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spec(tmp_path, "--nested", "loso", *words)
    assert line in str(refused.value) and "--nested loso: " in str(refused.value)


@pytest.mark.parametrize("text", ["1", "0", "all", "none", "2.5", "2/4"])
def test_what_nested_may_be(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"nested = .*: expected loso .* or a whole number from"):
        spec(tmp_path, "--nested", text)


@pytest.mark.parametrize(
    ("task", "nested", "line"),
    [
        (FOUR, "9", r"9 outer folds of 4 speakers .*: use at most 4, or --nested loso"),
        (task_of(acted("AB")), "loso", "outer folds need at least 3 acoustic speakers"),
        (task_of(fer(8), corpus="folders"), "loso", "names no speakers, and outer folds are by"),
        (
            task_of([s for s in acted("ABCD") if s[1] != 2 or s[0] == "CC"]),
            "loso",
            "outer fold 3/4 tests CC, and no division of the others leaves every emotion",
        ),
    ],
)
def test_data_that_do_not_allow_it(tmp_path: Path, task, nested: str, line: str) -> None:
    with pytest.raises(DataError, match=line):
        plan_nested(spec(tmp_path, "--study", "n", "--nested", nested), task)
    assert not (tmp_path / "n").exists()


def test_another_study_under_its_name(tmp_path: Path) -> None:
    plan = plan_nested(spec(tmp_path, "--study", "n", "--nested", "2"), FOUR)
    (tmp_path / "n").mkdir()
    write_study_file(tmp_path / "n", {"id": "1", **plan.facts("d" * 64)})
    check_same_nested(plan, "d" * 64)
    check_same_nested(plan, None)
    for words, line in (
        (["--nested", "loso"], "with 2 outer folds, now 4: choose another --study"),
        (["--nested", "2", "--lr", "0.01"], "other fixed settings"),
        (["--nested", "2", "--seed", "5"], "seed 0, now 5"),
    ):
        other = plan_nested(spec(tmp_path, "--study", "n", *words), FOUR)
        with pytest.raises(StudyError, match=line):
            check_same_nested(other, "d" * 64)
    with pytest.raises(StudyError, match="other data"):
        check_same_nested(plan, "e" * 64)
    plain = spec(tmp_path, "--study", "n", "--folds", "none")
    requested = RequestedStudy("n", tmp_path / "n", "journal", plain.identity("d" * 64))
    with pytest.raises(StudyError, match=r"is a nested one: choose .* give --nested 2 to continue"):
        check_same_study(requested)
    (tmp_path / "p").mkdir()
    facts = plain.identity("d" * 64)
    write_study_file(tmp_path / "p", {"id": "1", "storage": "journal", "split": facts.split})
    with pytest.raises(StudyError, match=r"study 'p' exists in .* and is not nested"):
        check_same_nested(plan_nested(spec(tmp_path, "--study", "p", "--nested", "2"), FOUR), None)


def test_python_says_what_to_call(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"call run_nested\(spec\) of search.nested.pipeline"):
        run_study(StudySpec.make(runs=tmp_path, nested="loso"))
    with pytest.raises(ConfigError, match=r"call run_study\(spec\)"):
        run_nested(StudySpec.make(runs=tmp_path))
