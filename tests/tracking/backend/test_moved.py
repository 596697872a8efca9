"""MLflow's database in a folder that was moved, copied, or has a name with signs of URIs in it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking.conftest import Tables
from tracking.backend.moved import ARTIFACTS, artifacts_uri, mend_places
from tracking.backend.server import Server
from tracking.registry.registry import Registry
from tracking.uri import absolute_uri, default_uri, sqlite_file

TAGS = {"fdan.study_id": "1"}

NAMES = ("feature%2Fx", "a%20b", "what?", "My Study ü #1 100%", "{x}", "a&b=c;d", "plain")


def files(folder: Path) -> set[str]:
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def one_run(runs: Path) -> str:
    """A database with a run, its artifact, and a model version of it."""
    server = Server(default_uri(runs), "fdan-search", runs / ARTIFACTS)
    run = server.create_run("study", 1, TAGS)
    note = runs.parent / "note.txt"
    note.write_text("first")
    server.send_file(run, note, "study")
    registry = Registry(default_uri(runs), "fdan")
    registry.create()
    source = f"{registry.client.get_run(run).info.artifact_uri}/study"
    registry.client.create_model_version("fdan", source, run)
    return run


@pytest.mark.parametrize(
    ("how", "name"), [*(("moved", name) for name in NAMES), ("copied", "what?"), ("copied", "b")]
)
def test_runs_artifacts_and_models_are_those_of_the_folder_as_it_is_now(
    how: str, name: str, database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = database.path.parent.rename(tmp_path / "old 1%")
    run = one_run(before)
    kept = files(before)
    runs = tmp_path / name
    (shutil.move if how == "moved" else shutil.copytree)(before, runs)
    capsys.readouterr()

    server = Server(default_uri(runs), "fdan-search", runs / ARTIFACTS)
    assert server.find_run(TAGS) == run
    (tmp_path / "later.txt").write_text("second")
    server.send_file(run, tmp_path / "later.txt", "study")
    line = capsys.readouterr().err
    assert line == (
        f"{runs} was {how} from {before}: the places of artifacts and models in its mlflow.db are"
        " mended\n"
    )
    registry = Registry(default_uri(runs), "fdan")
    kept_at = runs / ARTIFACTS / run / "artifacts" / "study"
    assert {file.name for file in kept_at.iterdir()} == {"note.txt", "later.txt"}
    assert Path(registry.client.download_artifacts(run, "study/later.txt")).is_file()
    version = registry.version("1")
    assert version is not None and version.source.startswith(f"{artifacts_uri(runs / 'x')}/{run}")
    assert capsys.readouterr().err == "", "told once"
    assert (files(before) == kept) if how == "copied" else not before.exists()
    assert {path.name for path in tmp_path.iterdir()} - {before.name} == {
        *(name, "note.txt", "later.txt"),
    }, "nothing beside it"


def test_nothing_is_mended_under_a_study_that_runs(
    database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder is reached by two paths: a reader on one would turn the study's artifacts away."""
    one_run(database.path.parent)
    runs = Path(shutil.copytree(database.path.parent, tmp_path / "seen"))
    (runs / "study").mkdir()
    holding = "import sys; from fdan.lock import Lock; l = Lock(sys.argv[1]); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(runs / "study" / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        mend_places(default_uri(runs))
        line = capsys.readouterr().err
        assert f"run in it by process {other.pid}" in line and "stay as they are" in line
        other.communicate(b"\n")
    mend_places(default_uri(runs))
    assert "are mended" in capsys.readouterr().err


def test_places_that_are_not_beside_a_database_stay(
    database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link to the folder, a database whose artifacts stayed behind, a bucket, another program's
    database, and one that is not there."""
    runs = database.path.parent
    one_run(runs)
    (tmp_path / "link").symlink_to(runs)
    mend_places(default_uri(tmp_path / "link"))
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(database.path, alone)
    mend_places(default_uri(alone))
    registry = Registry(default_uri(runs), "fdan")
    registry.client.create_experiment("cloud", "s3://bucket/mlartifacts")
    for odd in ("none.db", "empty.db", "text.db"):
        mend_places(f"sqlite:///{tmp_path / odd}")
        (tmp_path / odd).write_text("no database" if odd == "text.db" else "")
        mend_places(f"sqlite:///{tmp_path / odd}")
    shutil.move(runs, tmp_path / "later")
    assert capsys.readouterr().err == ""
    mend_places(default_uri(tmp_path / "later"))
    assert "later was moved from" in capsys.readouterr().err
    client = Registry(default_uri(tmp_path / "later"), "fdan").client
    assert client.get_experiment_by_name("cloud").artifact_location == "s3://bucket/mlartifacts"


@pytest.mark.parametrize("mounted", [True, False])
def test_another_experiment_keeps_its_place(
    mounted: bool, database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A colleague's, in a folder of the same name that is no runs folder's: whether this one moves
    or not, and whether that one can be reached now or not."""
    runs, nas = database.path.parent, tmp_path / "nas" / ARTIFACTS
    one_run(runs)
    client = Registry(default_uri(runs), "fdan").client
    team = client.create_experiment("team", nas.as_uri())
    their = client.create_run(team).info.run_id
    note = tmp_path / "theirs.txt"
    note.write_text("theirs")
    client.log_artifact(their, str(note))
    if not mounted:
        nas.parent.rename(tmp_path / "away")
    mend_places(default_uri(runs))
    assert capsys.readouterr().err == ""

    runs = Path(shutil.move(runs, tmp_path / "later"))
    mend_places(default_uri(runs))
    assert capsys.readouterr().err.startswith(f"{runs} was moved from {tmp_path / 'runs'}: ")
    client = Registry(default_uri(runs), "fdan").client
    if not mounted:
        (tmp_path / "away").rename(nas.parent)
    assert client.get_experiment(team).artifact_location == nas.as_uri()
    assert Path(client.download_artifacts(their, note.name)).read_text() == "theirs"


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_folder_without_artifacts_is_known_by_its_studies(
    how: str, database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study says in which runs folder it was started last."""
    before, runs = database.path.parent, tmp_path / "later"
    Server(default_uri(before), "fdan-search", before / ARTIFACTS).create_run("study", 1, TAGS)
    study = before / "s" / "study.json"
    study.parent.mkdir()
    study.write_text(json.dumps({"id": "1", "runs": str(tmp_path / "other")}))
    (shutil.move if how == "moved" else shutil.copytree)(before, runs)
    mend_places(default_uri(runs))
    assert capsys.readouterr().err == "", "a study of another folder proves nothing"
    (runs / "s" / "study.json").write_text(json.dumps({"id": "1", "runs": str(before)}))
    mend_places(default_uri(runs))
    assert capsys.readouterr().err.startswith(f"{runs} was {how} from {before}: ")
    Server(default_uri(runs), "fdan-search", runs / ARTIFACTS).find_run(TAGS)


def test_artifacts_that_stayed_behind_are_found_there(
    database: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy without them, whose study says where it was."""
    runs = database.path.parent
    run = one_run(runs)
    (runs / "s").mkdir()
    (runs / "s" / "study.json").write_text(json.dumps({"id": "1", "runs": str(runs)}))
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns(ARTIFACTS))
    mend_places(default_uri(copy))
    assert capsys.readouterr().err == ""
    client = Registry(default_uri(copy), "fdan").client
    assert Path(client.download_artifacts(run, "study/note.txt")).read_text() == "first"


def test_where_rights_lack_the_line_says_whose_it_is_and_what_to_do(
    database: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_run(database.path.parent)
    runs = Path(shutil.move(database.path.parent, tmp_path / "later"))

    connect = sqlite3.connect

    def read_only(file: Path, timeout: float) -> sqlite3.Connection:
        return connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=timeout)

    with monkeypatch.context() as patch:  # root may write any file
        patch.setattr(sqlite3, "connect", read_only)
        patch.setattr("fdan.machine.rights.os.access", lambda *_: False)
        lines: list[str] = []
        mend_places(default_uri(runs), lines.append)
    (line,) = lines
    file = runs / "mlflow.db"
    assert line.startswith(f"{file} was {tmp_path}/runs/mlflow.db: the places of its artifacts")
    assert f"cannot be mended: {file}: Permission denied ({file} is " in line
    assert "chmod " in line


def test_a_database_that_is_not_there_yet_is_where_it_was_typed(tmp_path: Path) -> None:
    """However often its URI is made absolute."""
    for name in ("o%20b.db", "o b.db", "100%.db", "%41.db"):
        uri = f"sqlite:///{tmp_path}/{name}"
        for _ in range(3):
            uri = absolute_uri(uri)
            assert sqlite_file(uri) == tmp_path / name


def test_a_database_is_where_it_was_typed(tmp_path: Path) -> None:
    for folder in ("a%20b", "c d", "what?"):
        (tmp_path / folder).mkdir()
    for typed, meant in (
        ("a%20b/o.db", "a%20b/o.db"),
        ("a%2520b/o.db", "a%20b/o.db"),
        ("c%20d/o.db", "c d/o.db"),
        ("what?/o.db", "what?/o.db"),
        ("what%3F/o.db", "what?/o.db"),
        ("c d/o.db?timeout=9", "c d/o.db"),
    ):
        assert sqlite_file(f"sqlite:///{tmp_path}/{typed}") == tmp_path / meant


def test_a_folder_as_typed_comes_before_a_file_of_another_folder(tmp_path: Path) -> None:
    """However often its URI is made absolute."""
    for folder in ("a b", "a%20b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a b" / "o.db").write_text("another study's")
    for typed, meant in (
        ("a%20b/o.db", "a%20b/o.db"),
        ("a%2520b/o.db", "a%20b/o.db"),
        ("a b/o.db", "a b/o.db"),
        ("a b/o%2Edb", "a b/o.db"),  # in one folder, the file that is there
    ):
        uri = f"sqlite:///{tmp_path}/{typed}"
        for _ in range(3):
            assert sqlite_file(uri) == tmp_path / meant
            uri = absolute_uri(uri)
