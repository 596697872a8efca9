"""The table of systems, on a small corpus: what is done is kept, and each speaker is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import real_speech
from benchmarks.real_speech import read_answers
from fdan.corpora.demo import generate

SMALL = ["--spectrogram-size", "32", "--face-size", "32", "--weights", "none", "--epochs", "1"]
SMALL += ["--speaker-folds", "2", "--seeds", "1", "--side-by-side", "1", "--detect", "never"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    corpus = generate(tmp_path / "corpus", speakers=4, takes=1, uneven=False, workers=1)
    return ["--task", f"demo:{corpus}", *SMALL, "--systems", "fdan,speech"]


def test_every_speaker_is_tested_once_a_seed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert real_speech.main(words) == 0
    table = capsys.readouterr().out
    for title in ("FDAN", "speech backbone alone", "logistic regression", "SVM on MFCC statistics"):
        assert f"| {title} |" in table
    kept = tmp_path / "runs" / "real_speech.jsonl"
    recorded = read_answers(kept)
    assert len(recorded) == 4
    assert sum(len(a.answers) for a in recorded.values() if a.run.startswith("fdan,")) == 28

    before = kept.read_bytes()
    assert real_speech.main(words) == 0
    assert capsys.readouterr().out.splitlines()[2:] == table.splitlines()[2:]
    assert kept.read_bytes() == before


def test_an_unknown_system_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert real_speech.main([*words, "--systems", "fdam"]) == 2
    assert "did you mean 'fdan'" in capsys.readouterr().err
