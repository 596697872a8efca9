"""`python -m search status` and `list`: one line for what cannot be read, and commands to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from optuna.trial import TrialState

from fdan.corpora import Source
from fdan.data.prepare import prepare
from fdan.data.store import PrepareProgress
from fdan.lock import Lock
from fdan.media.faces import FaceSettings
from search import __main__ as command
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space_file import parse_space
from search.study.folder import JOURNAL_FILE, LOCK_FILE, STUDY_FILE, record_start, write_begun
from search.study.identity import Identity, RequestedStudy
from search.study.open import open_study
from search.study.storage import open_storage
from tests.search.conftest import KNOWN, SPACE
from tracking.tracker import Tracker

SEARCHED = parse_space(SPACE, KNOWN)
WORDS = ["--study", "s", "--task", f"savee:/data/{'long/' * 20}SAVEE", "--trials", "3"]


def made(runs: Path, name: str, trials: int = 1, url: str | None = None) -> Path:
    """A study of 3 trials, of which some are COMPLETE."""
    folder = runs / name
    folder.mkdir(parents=True)
    opened = open_study(
        RequestedStudy(
            name,
            folder,
            url or "journal",
            Identity(SEARCHED.as_dict(), "data", {}, {"epochs": 3}, 0),
            SEARCHED.enqueue,
        ),
        open_storage(url, folder),
        make_sampler("random", SEARCHED, 0, 0),
        make_pruner("none", 3),
    )
    for _ in range(trials):
        opened.tell(opened.ask(), 0.5, TrialState.COMPLETE)
    record_start(folder, 3, WORDS)
    return folder


def emptied(folder: Path) -> None:
    (folder / JOURNAL_FILE).write_bytes(b"")


def nobodys(folder: Path) -> None:
    (folder / STUDY_FILE).write_text('{"id": 1}')


def listed(folder: Path) -> None:
    (folder / STUDY_FILE).write_text("[1]")


def gone(folder: Path) -> None:
    (folder / JOURNAL_FILE).unlink()


def nonsense(folder: Path) -> None:
    lines = (folder / JOURNAL_FILE).read_text().splitlines()
    (folder / JOURNAL_FILE).write_text("\n".join([lines[0], '{"op_code": 4}', *lines[1:], ""]))


def lacking(folder: Path) -> None:
    """Its study.json names a database that has other studies."""
    url = f"sqlite:///{folder / 'other.db'}"
    open_storage(url, folder)
    owner = json.loads((folder / STUDY_FILE).read_text())
    (folder / STUDY_FILE).write_text(json.dumps({**owner, "storage": url}))


DAMAGES = [
    (emptied, "its trials are gone from"),
    (nobodys, "study.json cannot be read: it is not a study's"),
    (listed, "study.json cannot be read: it is not a study's"),
    (gone, "no such file"),
    (nonsense, "journal.log cannot be read"),
    (lacking, "its trials are gone from sqlite:///"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_bad_study_is_one_line_and_costs_the_list_nothing(
    damage: Callable[[Path], None],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made(tmp_path, "good")
    damage(made(tmp_path, "bad"))
    assert command.main(["status", "bad", "--runs", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ") and words in err
    assert command.main(["list", "--runs", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["bad", "?"]
    assert rows[2].split()[:6] == ["good", "stopped", "1/3", "0.5000", "(trial", "0)"]
    assert rows[3].startswith("bad: ") and words in rows[3]


def test_commands_stand_on_lines_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    runs = tmp_path / ("a folder with [a name] that goes on " + "and on " * 10)
    folder = made(runs, "s")
    with Tracker(folder / "spool", "http://127.0.0.1:9", "fdan") as tracker:
        tracker.open_study("s", {}, {})
    assert command.main(["status", "s", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert shlex.join(["python", "search/run.py", *WORDS, "--runs", str(runs)]) in lines
    assert shlex.join(["python", "-m", "tracking", "flush", str(folder)]) in lines


def test_a_study_whose_data_are_being_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    write_begun(tmp_path / "s", WORDS)
    where = ["--runs", str(tmp_path)]
    with Lock(tmp_path / "s" / LOCK_FILE):
        assert command.main(["status", "s", *where]) == 0
        assert "preparing its data: process " in capsys.readouterr().out
    assert command.main(["status", "s", *where]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "stopped while its data were prepared" in " ".join(out.split())
    begin = shlex.join(["python", "search/run.py", *WORDS, *where])
    assert lines[-2:] == ["this begins it:", begin]
    assert command.main(["status", "s", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "begun"
    assert command.main(["list", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["s", "begun"]


def test_data_of_a_study_without_a_name_while_they_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in ("angry", "happy"):
        (tmp_path / "faces" / word).mkdir(parents=True)
        picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
        assert cv2.imwrite(str(tmp_path / f"faces/{word}/1.png"), picture)
    source = Source("folders", tmp_path / "faces", "visual")
    while_prepared: list[str] = []

    def list_studies(progress: PrepareProgress) -> None:
        if progress.stage == "decoding" and progress.done == progress.total:
            assert command.main(["list", "--runs", str(tmp_path)]) == 0
            while_prepared.extend(capsys.readouterr().out.splitlines())

    settings = FaceSettings(face_size=16)
    store = prepare(source, settings, tmp_path / "stores", workers=1, progress=list_studies)
    first, second = while_prepared
    assert first == f"no studies in {tmp_path}"
    assert second.startswith(f"data being prepared: {store.folder.name}, 2 files so far (process ")
    assert command.main(["list", "--runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no studies in {tmp_path}\n"


def test_a_file_in_the_place_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").touch()
    assert command.main(["status", "mlflow.db", "--runs", str(tmp_path)]) == 2
    assert "study.json cannot be read" in capsys.readouterr().err
