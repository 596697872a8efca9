"""What commit 6194286 wrote and said, before the code was laid out anew, as today's code has it.

`earlier_study/s` is the folder of a study that this commit began on a small demo corpus and that
was killed while its third trial trained: its storage, its spool that no server had seen, its
trials' epochs and checkpoints. `expected.json` is what the same commit made of it: the trials'
values to the last digit, the keys of result.json, the names in MLflow, and its commands' options.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Final

import pytest

from fdan.corpora.demo import DemoSettings, speaker_name
from fdan.corpora.demo import __main__ as writer
from fdan.emotions import EMOTIONS
from tests.commands.conftest import Run

HERE: Final = Path(__file__).parent / "earlier_study"
EXPECTED: Final[dict[str, Any]] = json.loads((HERE / "expected.json").read_text())
LISTS: Final = ("space", "trials", "parts", "checks", "curves", "importances", "unreadable")
SINCE: Final = {
    "result": ["effects", "folds", "yardsticks"],
    "metrics": ["yardstick/logistic_regression/uar", "yardstick/mfcc_svm/uar"],
}
"""What later code adds."""

MAPPINGS: Final = ("cost", "origin", "embedding", "confusion")


def keys(result: dict[str, Any]) -> list[str]:
    """Keys of result.json, with those one level down where they are names and no settings."""
    names = set(result)
    for key in LISTS:
        if isinstance(result[key], list):
            names |= {f"{key}[].{k}" for row in result[key] if isinstance(row, dict) for k in row}
    for key in MAPPINGS:
        names |= {f"{key}.{k}" for k in result[key]}
    return sorted(names)


@pytest.fixture
def earlier_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's corpus, beside its runs folder: by the generator of that time."""
    spec = importlib.util.spec_from_file_location("earlier_voice", HERE / "voice.py")
    assert spec is not None and spec.loader is not None
    earlier = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(earlier)
    for name in ("Voice", "Sentence", "speak"):
        monkeypatch.setattr(writer, name, getattr(earlier, name))
    settings = DemoSettings(speakers=4, takes=1, uneven=False)
    for speaker in range(settings.speakers):
        for modality in ("AudioData", "VisualData"):
            (tmp_path / "corpus" / modality / speaker_name(speaker)).mkdir(parents=True)
        for emotion in EMOTIONS:
            writer._write_cell(tmp_path / "corpus", settings, speaker, emotion)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("earlier_corpus")
def test_a_study_that_earlier_code_began_goes_on(run: Run, template: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copyfile(template, tmp_path / "runs" / "mlflow.db")
    study = shutil.copytree(HERE / "s", tmp_path / "runs" / "s")
    uri = "sqlite:///runs/mlflow.db"
    done = run("search/run.py", "--runs", "runs", "--study", "s", "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr

    with (study / "figures" / "trials.csv").open() as table:
        rows = {
            row["trial"]: [row["state"], row["value"], row["epochs"]]
            for row in csv.DictReader(table)
        }
    assert rows == EXPECTED["trials"]
    found = keys(json.loads((study / "result.json").read_text()))
    assert found == sorted([*EXPECTED["result"], *SINCE["result"]])

    database = sqlite3.connect(tmp_path / "runs" / "mlflow.db")

    def names(query: str) -> list[str]:
        return sorted(str(row[0]) for row in database.execute(f"select distinct {query}"))

    of_run = "t.key from tags t join runs r using (run_uuid) where r.name ="
    assert names(f"{of_run} 's'") == EXPECTED["tags"]["study"]
    assert names(f"{of_run} 'trial-0000'") == EXPECTED["tags"]["trial"]
    assert {*names("key from params")} >= {*EXPECTED["params"]}, "later settings joined"
    assert names("key from metrics") == sorted([*EXPECTED["metrics"], *SINCE["metrics"]])
    database.close()


@pytest.mark.parametrize("command", EXPECTED["options"])
def test_a_command_has_the_options_that_it_had(run: Run, command: str) -> None:
    text = run(*command.split(), "--help").stdout
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert not set(EXPECTED["options"][command]) - options


def test_settings_have_the_defaults_that_they_had(run: Run, corpus: Path) -> None:
    shown = run("search/run.py", "--task", f"demo:{corpus}", "--dry-run").stdout
    rows = dict(re.findall(r"^ (\w+) {2,}(\S+) +(?:default|demo)\s*$", shown, re.MULTILINE))
    assert rows.items() >= EXPECTED["dry_run"].items(), "later settings may have joined"
