"""The figure of all outer folds together, out of finished studies' folders; how far it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

from fdan.emotions import EMOTIONS
from fdan.evaluation.predictions import Predictions, pooled_predictions, speech_predictions
from fdan.evaluation.statistics import bootstrap, compare
from fdan.lock import Lock
from search.cli.main import parse
from search.cli.status_view import show_nested_status, show_studies
from search.config.spec import resolve
from search.nested.outcome import _agreement, nested_result, outer_result
from search.nested.plan import NestedPlan, check_same_nested, plan_nested
from search.nested.status import is_nested, read_nested_status
from search.nested.summary import nested_summary
from search.study.folder import LOCK_FILE, StudyError, record_start, write_study_file
from tests.tasks import acted, task_of
from tests.tracking.results import result
from tracking.nested_result import NestedResult
from tracking.result import Choices, Range, ResultError, StudyResult

TASK = task_of(
    [
        (speaker, emotion, part, hashlib.sha256(content.encode()).hexdigest())
        for speaker, emotion, part, content in acted("ABCD", takes=2)
    ]
)
RIGHT = {1: 0.9, 2: 0.5, 3: 0.7, 4: 0.2}
"""How often each outer fold's winner is right."""


@pytest.fixture
def plan(tmp_path: Path) -> NestedPlan:
    words = ["--runs", str(tmp_path), "--study", "n", "--nested", "loso", "--trials", "6"]
    return plan_nested(resolve(parse(words).options), TASK)


def answers(plan: NestedPlan, number: int, right: float, seed: int = 0) -> Predictions:
    """Answers on an outer fold's test part that are as often right."""
    random, part = np.random.default_rng([number, seed]), plan.splits[number - 1].acoustic_test
    truth = TASK.samples("acoustic").labels[part]
    guess = np.where(random.random(len(part)) < right, truth, (truth + 1) % len(EMOTIONS))
    return speech_predictions(TASK, part, np.eye(len(EMOTIONS))[guess])


def finish(plan: NestedPlan, number: int, **changes: object) -> StudyResult:
    """An outer fold's folder as its study leaves it."""
    folder = plan.study_folder(number)
    (folder / "winner").mkdir(parents=True)
    found = result(6, failing=0, pruning=0, confirm=1, seed=number)
    found = replace(found, study=folder.name, **changes)
    found.save(folder)
    answers(plan, number, RIGHT[number]).write(folder / "winner" / "test.csv")
    for name, right in (("logistic_regression", 0.4), ("mfcc_svm", 0.6)):
        file = folder / "winner" / f"test-{name}.csv"
        answers(plan, number, right, seed=1).write(file)
    return found


def test_the_figure_is_of_all_answers_together(plan: NestedPlan) -> None:
    studies = {number: finish(plan, number) for number in plan.numbers}
    found = nested_result(plan, "id")
    own = [answers(plan, n, RIGHT[n]) for n in plan.numbers]
    pooled = pooled_predictions(own)
    assert len(pooled) == len(TASK.samples("acoustic")), "every utterance once"
    measured, interval = pooled.measures(), bootstrap(pooled)
    assert found.pooled is not None
    truth = np.concatenate([answer.truth for answer in own])
    said = np.concatenate([answer.predicted for answer in own])
    assert found.pooled.uar == pytest.approx(recall_score(truth, said, average="macro"))
    assert found.pooled.war == pytest.approx(np.mean(truth == said))
    assert (found.pooled.uar, found.pooled.war) == (measured.uar, measured.war)
    bounds = found.pooled.interval
    assert (bounds.low, bounds.high) == (interval.low, interval.high)
    assert (bounds.groups, bounds.by) == (4, "speaker")
    assert [y.name for y in found.pooled.yardsticks] == ["logistic_regression", "mfcc_svm"]
    for scored, right in zip(found.pooled.yardsticks, (0.4, 0.6), strict=True):
        others = pooled_predictions([answers(plan, n, right, seed=1) for n in plan.numbers])
        paired = compare(pooled, others)
        assert scored.uar == others.measures().uar
        assert (scored.difference.value, scored.difference.p) == (paired.difference, paired.p)
    for fold in found.folds:
        study = studies[fold.fold]
        assert study.confirm is not None and study.test is not None
        assert (fold.trial, fold.test_uar) == (study.confirm.winner, study.test.uar)
        assert fold.confirmed_uar == study.confirm.settings[0].mean
        assert fold.search_uar == study.confirm.settings[0].search_value
        assert dict(fold.speakers) == {"ABCD"[fold.fold - 1] * 2: 14}
    assert (found.state, found.reason) == ("COMPLETE", "4 of 4 outer folds")
    plan.folder.mkdir()
    found.save(plan.folder)
    assert NestedResult.load(plan.folder) == found
    text = nested_summary(found, plan.folder, 61.0)
    assert f"outer test:    UAR {measured.uar:.4f}" in text
    assert f"over 4 speakers: {bounds.low:.4f} .. {bounds.high:.4f}" in text
    assert "above logistic regression" in text and "same command goes on" not in text


def test_yardsticks_that_an_outer_fold_lacks_are_left_out(plan: NestedPlan) -> None:
    for number in plan.numbers:
        finish(plan, number)
    (plan.study_folder(2) / "winner" / "test-mfcc_svm.csv").unlink()
    found = nested_result(plan, "id").pooled
    assert found is not None and [y.name for y in found.yardsticks] == ["logistic_regression"]


def test_only_what_is_finished_and_tested_counts(plan: NestedPlan) -> None:
    finish(plan, 1)
    finish(plan, 2, state="PAUSED")
    untested = finish(plan, 3)
    replace(untested, test=None).save(plan.study_folder(3))
    other = finish(plan, 4)
    assert other.test is not None
    replace(other, test=replace(other.test, run=99)).save(plan.study_folder(4))
    assert [outer_result(plan, n) is not None for n in plan.numbers] == [True, False, False, False]
    found = nested_result(plan, "id", "stopped by the user")
    assert (found.state, len(found.folds)) == ("PAUSED", 1)
    assert found.reason == "1 of 4 outer folds: stopped by the user"
    (plan.study_folder(1) / "winner" / "test.csv").unlink()
    assert nested_result(plan, "id").pooled is None


def test_an_outer_fold_that_was_tested_is_not_searched_further(plan: NestedPlan) -> None:
    finish(plan, 1)
    identity = asdict(plan.outer_spec(1).identity("d"))
    write_study_file(plan.study_folder(1), {"id": "1", "storage": "journal", **identity})
    check_same_nested(plan, "d")
    words = ["--runs", str(plan.spec.runs), "--study", "n", "--nested", "loso", "--trials", "9"]
    more = plan_nested(resolve(parse(words).options), TASK)
    with pytest.raises(StudyError, match="tested after a search of 6 trials, and is not tested"):
        check_same_nested(more, "d")
    other = plan_nested(resolve(parse([*words[:-1], "6", "--seed", "4"]).options), TASK)
    with pytest.raises(StudyError, match=r"study 'n-outer-1' exists .* seed 0, now 4"):
        check_same_nested(other, "d")


@pytest.mark.parametrize(
    ("dimension", "values", "spread"),
    [
        (Range("float", 1e-4, 1.0, log=True), [1e-3, 1e-1, 1e-2], 0.5),
        (Range("float", 0.0, 2.0, log=False), [0.5, 1.0, 0.5], 0.25),
        (Range("int", 0, 4, log=False), [1, 1, 1], 0.0),
        (Range("int", 0, 4, log=False), [0, 4, None], 1.0),
        (Range("int", 0, 4, log=False), [3, None, None], None),
        (Range("float", 0.0, 1.0, log=True), [0.0, 0.5], 0.5),
        (Choices("categorical", ("bank", "none")), ["bank", "bank", "none"], 0.5),
        (Choices("categorical", ("bank", "none")), ["bank", "bank"], 0.0),
        (Choices("categorical", (1, 2, 4)), [1, 2, 4], 1.0),
    ],
)
def test_how_far_the_settings_agree(dimension, values: list, spread: float | None) -> None:
    found = _agreement(dimension, values)
    assert found.spread == (None if spread is None else pytest.approx(spread))
    assert found.values == tuple(values)


def test_status_and_list_say_how_far_it_is(
    plan: NestedPlan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs, folder = plan.spec.runs, plan.folder
    folder.mkdir()
    write_study_file(folder, {"id": "1", **plan.facts("d")})
    record_start(folder, 6, plan.spec.arguments)
    assert is_nested(folder) and not is_nested(runs / "other")
    status = read_nested_status(runs, "n", None)
    assert (status.state, status.done, status.outer, status.uar) == ("stopped", 0, 4, None)
    finish(plan, 1)
    nested_result(plan, "id").save(folder)
    status = read_nested_status(runs, "n", None)
    assert (status.state, status.done) == ("stopped", 1)
    json.dumps(asdict(status))
    show_nested_status(status)
    shown = capsys.readouterr().out
    assert "outer folds     1 of 4 done" in shown and "this continues it:" in shown
    assert "--nested loso" in shown and f"{status.uar:.4f}" in shown
    show_studies(runs)
    assert "1/4 folds" in capsys.readouterr().out
    for number in (2, 3, 4):
        finish(plan, number)
    nested_result(plan, "id").save(folder)
    assert read_nested_status(runs, "n", None).state == "finished"
    with Lock(folder / LOCK_FILE):
        assert read_nested_status(runs, "n", None).state == "running"


def test_a_nested_study_has_no_result_of_one_study(plan: NestedPlan) -> None:
    finish(plan, 1)
    plan.folder.mkdir()
    nested_result(plan, "id").save(plan.folder)
    with pytest.raises(ResultError, match="is a nested study's; give the folder of an outer fold"):
        StudyResult.load(plan.folder)
