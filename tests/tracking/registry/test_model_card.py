"""The model card, of studies of every shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fdan.inference.model_source import FACTS
from tracking.backend.limits import DESCRIPTION
from tracking.registry.model_card import model_card
from tracking.result import Rescoring, SpeakerScore, StudyResult

URI = "http://localhost:5000"
HOSTILE = "</td><script>alert(1)</script>|`*[x](javascript:alert(1))\x00\udcff\n# boo"


@pytest.fixture
def result(finished: Path) -> StudyResult:
    return StudyResult.load(finished / "good")


@pytest.fixture
def facts(finished: Path) -> dict[str, Any]:
    import json

    held: dict[str, Any] = json.loads((finished / "good" / "winner" / FACTS).read_text())
    return held


def changed(result: StudyResult, **test: Any) -> StudyResult:
    assert result.test is not None
    return dataclasses.replace(result, test=dataclasses.replace(result.test, **test))


def test_it_says_what_one_has_to_know(result: StudyResult, facts: dict[str, Any]) -> None:
    text = model_card(result, facts, "fdan", URI)
    test = result.test
    assert test is not None
    for words in (
        f"test UAR {test.uar:.3f} ({test.interval.low:.3f} to",
        "95% interval over 2 speakers",
        str(result.origin["data"]),
        "never heard in training or selection",
        "| anger |",
        "by speaker, the hardest first",
        "Not for decisions about people",
        "fresh seeds",
        "optimism +0.025",
        "scored once",
        "python -m fdan predict --model models:/fdan@champion clip.wav",
        "mlflow models serve -m models:/fdan@champion",
        "hop 256",
        "- **Logistic regression** on the same speech and split: UAR 0.143; the model is above it",
    ):
        assert words in text, words


def test_many_speakers_fit_a_description(result: StudyResult, facts: dict[str, Any]) -> None:
    many = {f"a speaker with a long name {i}": SpeakerScore(i / 300, 0.5, 1000) for i in range(300)}
    spread = changed(result, per_speaker=many)
    text = model_card(spread, facts, "fdan", URI, DESCRIPTION)
    assert len(text) <= DESCRIPTION
    assert "288 more speakers" in text and "Intended use" in text
    assert "speaker with a long name 299" in model_card(spread, facts, "fdan", URI)


def test_what_does_not_fit_is_left_out_whole(result: StudyResult, facts: dict[str, Any]) -> None:
    text = model_card(result, facts, "fdan", URI, 2000)
    assert len(text) <= 2000 and text.endswith("README.md among the version's files.*")
    assert text.count("```") % 2 == 0


def test_names_from_outside_are_no_markup(result: StudyResult, facts: dict[str, Any]) -> None:
    hostile = dataclasses.replace(
        changed(
            result,
            per_speaker={HOSTILE: SpeakerScore(0.5, 0.5, 3)},
            again=(Rescoring("2026-01-01", HOSTILE, 0.5, 0.4),),
        ),
        study=HOSTILE,
        task=HOSTILE,
    )
    text = model_card(hostile, facts, "fdan", URI)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\n# boo" not in text and "\x00" not in text
    text.encode()  # no lone surrogates


@pytest.mark.parametrize("protocol", ["speaker", "paper", "official"])
def test_every_protocol_has_its_words(
    result: StudyResult, facts: dict[str, Any], protocol: str
) -> None:
    other = {**facts, "split": {**facts["split"], "protocol": protocol}}
    assert f"- **Protocol**: {protocol}: " in model_card(result, other, "fdan", URI)
    assert "see model.json" not in model_card(result, other, "fdan", URI)


@pytest.mark.parametrize(
    ("tuning", "words"),
    [("full", "trained"), ("last", "trained in its last stage"), ("frozen", "frozen")],
)
def test_every_tuning_has_its_words(
    result: StudyResult, facts: dict[str, Any], tuning: str, words: str
) -> None:
    other = {**facts, "run": {**facts["run"], "tuning": tuning}}
    assert f", backbone {words}\n" in model_card(result, other, "fdan", URI)


def test_one_seed_and_no_speakers(result: StudyResult, facts: dict[str, Any]) -> None:
    assert result.confirm is not None
    (best,) = result.confirm.settings
    confirm = dataclasses.replace(
        result.confirm, settings=(dataclasses.replace(best, low=None, high=None),)
    )
    bare = dataclasses.replace(changed(result, per_speaker={}), confirm=confirm)
    text = model_card(bare, facts, "fdan", URI)
    assert "names no speakers" in text and "(95 %" not in text


def test_it_says_how_many_folds_the_search_went_by(
    result: StudyResult, facts: dict[str, Any]
) -> None:
    assert "on the validation part alone" in model_card(result, facts, "fdan", URI)
    text = model_card(dataclasses.replace(result, folds=4), facts, "fdan", URI)
    assert "by the mean over 4 folds, in which each speaker outside the test part" in text
    assert "on the validation part alone" not in text
