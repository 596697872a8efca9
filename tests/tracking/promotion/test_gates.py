"""A study's winner against the champion: the rule, and what may be compared at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import Comparison
from tests.finished import link
from tracking.promotion import gates
from tracking.promotion.challenger import Challenger, multiply_adds
from tracking.promotion.gates import (
    BETTER,
    Champion,
    Gate,
    GateContext,
    challenger_is,
    evaluate_gates,
)
from tracking.promotion.isolated_model import IsolatedModel
from tracking.registry.registry import ModelVersion, Registry, RegistryError
from tracking.result import StudyResult

if TYPE_CHECKING:
    from conftest import Tables


@pytest.mark.parametrize(
    ("difference", "p", "says"),
    [
        (0.1, 0.0499, "better"),
        (-0.1, 0.0499, "worse"),
        (0.1, 0.05, "tie"),
        (-0.1, 0.05, "tie"),
        (0.0, 1.0, "tie"),
    ],
)
def test_the_rule(difference: float, p: float, says: str) -> None:
    assert challenger_is(Comparison(difference, -1, 1, p, 100, 10)) == says


Pair = tuple[Challenger, Champion]


def champion_gates(
    challenger: Challenger, champion: Champion | None, accept_tie: bool
) -> tuple[Gate, Gate]:
    """The two gates that are about the champion."""
    context = GateContext(challenger, champion, accept_tie, accept_yardstick_tie=True)
    gates = evaluate_gates(context, evaluate_all=False)
    return gates["data is the champion's"], gates[BETTER]


@pytest.fixture
def pair(finished: Path, tmp_path: Path, database: Tables, quick: None) -> Callable[..., Pair]:
    registry = Registry(database.uri, "fdan")

    def make(ours: str, theirs: str) -> Pair:
        study = link(finished / ours, tmp_path / ours)
        champion = link(finished / theirs / "winner", tmp_path / "champion")
        challenger = Challenger(
            study / "winner", StudyResult.load(study), registry, tmp_path, IsolatedModel()
        )
        return challenger, Champion(ModelVersion("fdan", "7", {}, "", None, None), lambda: champion)

    return make


@pytest.mark.parametrize(
    ("ours", "theirs", "accept_tie", "ok", "words"),
    [
        ("good", "bad", False, True, "better: UAR +0."),
        ("bad", "good", False, False, "worse than the champion: UAR -0."),
        ("bad", "good", True, False, "worse than the champion"),
        ("small", "good", False, False, "--accept-tie, if cheaper"),
        ("small", "good", True, True, "accepted because it is cheaper"),
        ("good", "small", True, False, "not cheaper"),
        ("good", "good", True, False, "not cheaper"),
    ],
)
def test_who_wins(
    pair: Callable[..., Pair], ours: str, theirs: str, accept_tie: bool, ok: bool, words: str
) -> None:
    same, better = champion_gates(*pair(ours, theirs), accept_tie)
    assert same.passed and better.passed is ok
    assert words in better.reason and "fdan/7" in better.reason and "p = " in better.reason
    if "cheaper" in words and accept_tie:
        assert better.reason.count("multiply-adds") == 1
        assert "the champion 3" in better.reason, "both numbers are said"


def test_without_a_champion_the_winner_is_the_first(pair: Callable[..., Pair]) -> None:
    challenger, _ = pair("bad", "good")
    assert all(
        gate.passed and "first" in gate.reason for gate in champion_gates(challenger, None, False)
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data", "f" * 64, "champion fdan/7 is of other files of DEMO{Dv,Da} (fingerprint ffff"),
        ("split", {"protocol": "paper"}, "is of another split (protocol paper, here speaker"),
    ],
)
def test_other_data_is_not_compared(
    pair: Callable[..., Pair], tmp_path: Path, name: str, value: object, words: str
) -> None:
    challenger, champion = pair("good", "bad")
    file = champion.folder / "model.json"
    facts = {**json.loads(file.read_text()), name: value}
    file.unlink()
    file.write_text(json.dumps(facts))
    same, better = champion_gates(challenger, champion, True)
    assert same.passed is False and words in same.reason
    command = f"python -m tracking promote {tmp_path / 'good'} --name fdan-good"
    assert same.reason.endswith(f"Give this data a champion of its own: {command}")
    assert better.passed is None


def test_folds_leave_the_test_part_alone(pair: Callable[..., Pair]) -> None:
    challenger, champion = pair("good", "bad")
    file = champion.folder / "model.json"
    facts = json.loads(file.read_text())
    facts["split"]["folds"] = "loso"
    file.unlink()
    file.write_text(json.dumps(facts))
    same, _ = champion_gates(challenger, champion, True)
    assert same.passed, same.reason


def test_another_corpus_is_named(pair: Callable[..., Pair]) -> None:
    """As after the demo's search, whose champion has the default name."""
    challenger, champion = pair("good", "bad")
    file = champion.folder / "model.json"
    facts = {**json.loads(file.read_text()), "data": "f" * 64, "task": "SAVEE{Sv,Sa}"}
    file.unlink()
    file.write_text(json.dumps(facts))
    same, _ = champion_gates(challenger, champion, True)
    assert "is of another corpus (SAVEE{Sv,Sa}, this study of DEMO{Dv,Da})" in same.reason


def test_other_utterances_are_not_compared(pair: Callable[..., Pair]) -> None:
    """Though data and split are said to be the same."""
    challenger, champion = pair("good", "bad")
    file = champion.folder / "test.csv"
    answers = Predictions.read(file)
    fewer = dataclasses.replace(
        answers,
        contents=answers.contents[1:],
        utterances=answers.utterances[1:],
        speakers=answers.speakers[1:],
        truth=answers.truth[1:],
        probabilities=answers.probabilities[1:],
    )
    file.unlink()
    fewer.write(file)
    same, better = champion_gates(challenger, champion, True)
    assert same.passed and better.passed is False
    assert "not tested on the same utterances" in better.reason


def test_the_cost_is_that_of_the_speech_network(finished: Path) -> None:
    """Counted by torch, and by hand: what two models of one backbone differ in is attention to 28
    faces."""
    from torch.utils.flop_counter import FlopCounterMode

    from fdan.inference.model_folder import read_model

    good, small = (read_model(finished / name / "winner") for name in ("good", "small"))
    d, bank = 32, sum(z.shape[0] for z in good.bank or ())
    assert bank == 28
    projections = d * d + 2 * bank * d * d  # one query, a key and a value for each face
    attention = 2 * bank * d
    ffn = 2 * (d * 2 * d)
    assert multiply_adds(good) - multiply_adds(small) == projections + attention + ffn
    images = np.zeros((1, 32, 32, 1), np.uint8)
    with FlopCounterMode(display=False) as counter:
        small.probabilities(images)
    assert multiply_adds(small) == counter.get_total_flops() // 2
    assert multiply_adds(small) > 512 * d and small.probabilities(images).shape == (1, 7)


def test_a_registry_that_does_not_answer_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any gate: it leaves `promote` with exit code 2, not as a refusal."""

    def unavailable(context: object) -> str:
        raise RegistryError("http://127.0.0.1:5000: Connection refused")

    monkeypatch.setattr(gates, "_GATES", (("not rolled back before", unavailable, None),))
    with pytest.raises(RegistryError, match="Connection refused"):
        gates.evaluate_gates(None, evaluate_all=True)  # type: ignore[arg-type]
