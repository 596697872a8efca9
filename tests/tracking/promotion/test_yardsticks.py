"""A study's winner beside its yardsticks: the gate, and what is kept of its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fdan.evaluation.predictions import Predictions
from tests.finished import YARDSTICK, anger, link, with_yardsticks
from tracking.__main__ import main
from tracking.promotion.gates import YARDSTICKS, Gate
from tracking.promotion.promote import PromotionOptions, Verdict, promote
from tracking.registry.registry import Registry
from tracking.result import YARDSTICK_PREDICTIONS, StudyResult

if TYPE_CHECKING:
    from conftest import Tables

Answers = Callable[[Predictions], Predictions]


def right(found: Predictions) -> Predictions:
    """The truth: nobody is better."""
    return replace(found, probabilities=np.eye(7)[found.truth])


def same(found: Predictions) -> Predictions:
    """The winner's own answers."""
    return found


Try = Callable[..., Verdict]


@pytest.fixture
def attempt(finished: Path, tmp_path: Path, database: Tables, quick: None) -> Try:
    """Promote a study beside other yardsticks; there is no champion yet."""

    def make(name: str, accept: bool, **yardsticks: Answers) -> Verdict:
        study = link(finished / name, tmp_path / name)
        winner = Predictions.read(study / "winner" / "test.csv")
        with_yardsticks(study, {name: answers(winner) for name, answers in yardsticks.items()})
        return promote(study, PromotionOptions(uri=database.uri, accept_yardstick_tie=accept))

    return make


def gate(verdict: Verdict) -> Gate:
    (found,) = (gate for gate in verdict.gates if gate.name == YARDSTICKS)
    return found


@pytest.mark.parametrize("accept", [False, True])
def test_a_winner_that_is_better_than_each_is_promoted(attempt: Try, accept: bool) -> None:
    verdict = attempt("good", accept, logistic_regression=anger, mfcc_svm=anger)
    assert verdict.promoted and gate(verdict).passed
    assert "better than logistic regression (UAR +0." in verdict.reason
    assert "and mfcc svm (UAR +0." in verdict.reason and "on 28 utterances" in verdict.reason
    assert "accepted" not in verdict.reason


@pytest.mark.parametrize("accept", [False, True])
def test_a_winner_that_is_worse_than_one_is_refused_for_good(attempt: Try, accept: bool) -> None:
    verdict = attempt("bad", accept, logistic_regression=anger, mfcc_svm=right)
    assert not verdict.promoted and gate(verdict).passed is False
    assert verdict.reason.startswith("worse than the yardstick mfcc svm (UAR -0.")
    assert "p = 0.0001" in verdict.reason and "logistic" not in verdict.reason


def test_a_tie_with_one_needs_the_option_though_another_is_beaten(attempt: Try) -> None:
    refused = attempt("good", False, logistic_regression=same, mfcc_svm=anger)
    assert not refused.promoted and gate(refused).passed is False
    tie = "not distinguishable from the yardstick logistic regression (UAR +0.0000, 95 % +0.0000 to"
    assert refused.reason.startswith(tie) and "mfcc" not in refused.reason
    assert "--accept-yardstick-tie promotes it" in refused.reason


def test_an_accepted_tie_is_kept_with_the_version(
    attempt: Try, database: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first champion is no exception."""
    verdict = attempt("good", True, logistic_regression=same)
    assert verdict.promoted and verdict.version == "fdan/1"
    assert "there is no champion yet" in verdict.reason
    version = Registry(database.uri, "fdan").version("1")
    assert version is not None
    for tag in ("verdict", "history"):
        assert "not distinguishable from the yardstick logistic reg" in version.tags[tag]
        assert "accepted with --accept-yardstick-tie" in version.tags[tag]
    assert version.tags["test.yardstick.logistic_regression"].startswith("UAR ")
    assert (
        "the model +0.0000 (+0.0000 to +0.0000, p = 1.0000)"
        in (version.tags["test.yardstick.logistic_regression"])
    )
    assert main(["champion", "--tracking-uri", database.uri]) == 0
    assert "accepted with --accept-yardstick-tie" in capsys.readouterr().out.replace("\n", " ")


def test_a_study_without_yardsticks_says_how_to_measure_them(
    finished: Path, tmp_path: Path, database: Tables, quick: None
) -> None:
    """As those of earlier releases are."""
    study = link(finished / "good", tmp_path / "good")
    with_yardsticks(study, {})
    verdict = promote(study, PromotionOptions(uri=database.uri))
    assert not verdict.promoted and "no yardstick was measured" in verdict.reason
    command = f"{StudyResult.load(study).command} --score-test"
    assert command in verdict.reason and "--accept-yardstick-tie" in verdict.reason
    accepted = promote(study, PromotionOptions(uri=database.uri, accept_yardstick_tie=True))
    assert accepted.promoted
    assert "no yardstick was measured on the test part, accepted with" in accepted.reason


def _gone(file: Path, _: Predictions) -> None:
    file.unlink()


def _of_another_study(file: Path, winner: Predictions) -> None:
    file.unlink()
    right(winner).write(file)


def _other_utterances(file: Path, winner: Predictions) -> None:
    file.unlink()
    others = tuple(f"{i:064x}" for i in range(len(winner)))
    replace(anger(winner), contents=others).write(file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_gone, "no such file"),
        (_of_another_study, "gives UAR 1.000000, recorded is 0.142857"),
        (_other_utterances, "not tested on the same utterances"),
    ],
)
def test_answers_that_are_not_those_that_were_scored_are_refused(
    finished: Path,
    tmp_path: Path,
    database: Tables,
    quick: None,
    spoil: Callable[[Path, Predictions], None],
    words: str,
) -> None:
    study = link(finished / "good", tmp_path / "good")
    winner = Predictions.read(study / "winner" / "test.csv")
    spoil(study / "winner" / YARDSTICK_PREDICTIONS.format(YARDSTICK), winner)
    verdict = promote(study, PromotionOptions(uri=database.uri, accept_yardstick_tie=True))
    assert not verdict.promoted and words in verdict.reason


def test_a_refusal_is_written_on_the_studys_run(
    finished: Path, tmp_path: Path, database: Tables, quick: None
) -> None:
    from tracking.tracker import Tracker

    study = link(finished / "bad", tmp_path / "bad")
    with Tracker(study / "spool", database.uri, "fdan-search") as tracker:
        tracker.open_study("bad", {}, {})
        tracker.close_run("study", "COMPLETE", "done")
        assert tracker.drain(60)
        study_id = tracker.study_id
    replace(StudyResult.load(study), study_id=study_id, tracking_uri=database.uri).save(study)
    assert main(["promote", str(study)]) == 1
    assert "refused: not distinguishable from the yardstick" in database.tags("bad")["promotion"]
