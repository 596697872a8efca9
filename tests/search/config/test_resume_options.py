"""`--study NAME` alone goes on with what NAME is, or says that there is no such study."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fdan.errors import FdanError
from fdan.files import PROJECT_ROOT
from search.cli import main as command
from search.cli.main import parse
from search.config.options import to_arguments, to_toml
from search.config.resume_options import WRITTEN, remembered_options
from search.config.spec import resolve
from search.optimizer.space_file import SPACES_FOLDER
from search.study.folder import BEGUN, command_line, read_arguments, record_start, write_begun
from tests.search.cli.test_main import RUN, errors
from tests.search.conftest import SMALL

TRACKING = ["--tracking-uri", "http://u:***@127.0.0.1:9"]
STORAGE = ["--storage=postgresql://u:***@127.0.0.1:9/optuna"]


def words(argv: list[str]) -> list[str]:
    """What a command line leaves out and its study remembers."""
    return to_arguments(remembered_options(parse(argv).options))


def started(runs: Path, *arguments: str) -> list[str]:
    """A study `s` that was started so; what to type to go on with it."""
    (runs / "s").mkdir()
    (runs / "s" / "study.json").write_text(json.dumps({"id": "1", "arguments": arguments}))
    return ["--study", "s", "--runs", str(runs)]


@pytest.mark.parametrize(
    ("option", "name"), [(TRACKING, "--tracking-uri"), (STORAGE, "--storage")], ids=str
)
def test_a_password_has_to_be_given_again(
    option: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = started(tmp_path, *option, "--trials", "7")
    line = errors(capsys, *again)
    assert line == (
        f"error: study 's': its {name} had a password, which is not stored: give it again\n"
    )
    address = option[-1].partition("=")[2] or option[-1]
    given = [name, address.replace("***", "secret")]
    assert words([*again, *given]) == ["--trials", "7"]


def test_a_share_of_gpus_replaces_what_was_found_out(tmp_path: Path) -> None:
    again = started(tmp_path, "--device", "cpu", "--trials", "7")
    assert words(again) == ["--device", "cpu", "--trials", "7"]
    assert words([*again, "--gpus-per-trial", "1"]) == ["--trials", "7"]


def test_the_environment_gives_the_password_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = started(tmp_path, *TRACKING, "--trials", "7")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:secret@127.0.0.1:9")
    assert words(again) == ["--trials", "7"]


def test_a_study_that_is_not_there_is_said_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert (
        command.main(["--study", "mien", "--runs", str(runs), "--trials", "50", "--dry-run"]) == 0
    )
    assert capsys.readouterr().err == (
        f"there is no study 'mien' in {runs}: this begins a new one, on the demo corpus\n"
    )
    assert not runs.exists()


def test_what_is_known_or_named_is_not_talked_about(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = started(tmp_path, "--trials", "7")
    (tmp_path / "s" / "study.json").rename(tmp_path / "s" / BEGUN)  # its data were not prepared
    assert command.main([*again, "--dry-run"]) == 0
    new = ["--study", "new", "--task", f"demo:{corpus}", "--runs", str(tmp_path)]
    assert command.main([*new, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "7 trials" in out and err == ""


def test_a_study_that_was_killed_while_it_prepared_goes_on_with_its_data(
    tmp_path: Path, corpus: Path
) -> None:
    typed = ["--study", "mine", "--runs", str(tmp_path), "--task", f"demo:{corpus}", *SMALL]
    secret = ["--tracking-uri", "http://u:secret@127.0.0.1:9"]
    process = subprocess.Popen(
        [sys.executable, str(RUN), *typed, *secret], stderr=subprocess.PIPE, text=True
    )
    begun = tmp_path / "mine" / BEGUN
    while not begun.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.communicate()[1]
    assert not (tmp_path / "mine" / "study.json").exists()
    assert "secret" not in begun.read_text()
    again = ["--study", "mine", "--runs", str(tmp_path)]
    with pytest.raises(FdanError, match="its --tracking-uri had a password"):
        words(again)
    assert words([*again, *secret]) == typed[4:]


def test_data_that_cannot_be_prepared_leave_no_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ["--study", "new", "--task", "savee:/no/such/folder", "--runs", str(tmp_path)]
    assert "no such folder" in errors(capsys, *new)
    assert not (tmp_path / "new").exists()
    # One that was killed before is not forgotten, whatever is wrong with its data today.
    (tmp_path / "new").mkdir()
    write_begun(tmp_path / "new", new)
    assert "no such folder" in errors(capsys, *new[:2], "--runs", str(tmp_path))
    assert words(["--study", "new", "--runs", str(tmp_path)]) == new[2:4]


def test_study_json_takes_over(tmp_path: Path) -> None:
    write_begun(tmp_path, ["--trials", "7"])
    (tmp_path / "study.json").write_text('{"id": "1"}')
    assert read_arguments(tmp_path) == ["--trials", "7"], "killed before it said more"
    record_start(tmp_path, 8, ["--trials", "8"])
    write_begun(tmp_path, ["--trials", "9"])
    assert read_arguments(tmp_path) == ["--trials", "8"]
    assert not (tmp_path / BEGUN).exists()


MOVED = [
    (["--task", "savee:{}/data"], ["--task", "savee:{}/data"]),
    (["--tracking-uri", "sqlite:///{}/x.db"], ["--tracking-uri", "sqlite:///{}/x.db"]),
    (["--storage", "sqlite:///{}/../o.db"], ["--storage", "sqlite:///{}/../o.db"]),
    (["--weights", "{}/../gone.pt"], ["--weights", "{old}/../gone.pt"]),
    (["--runs", "{}", "--space", "paper"], ["--space", "paper"]),
    (["--tracking-uri", "http://h:5000"], ["--tracking-uri", "http://h:5000"]),
]
"""What a study was started with, and what it is after its runs folder was moved: what lies in the
folder or still lies beside it goes along."""


@pytest.mark.parametrize(("given", "meant"), MOVED, ids=lambda words: words[0])
def test_places_go_along_with_the_runs_folder(
    given: list[str], meant: list[str], tmp_path: Path
) -> None:
    old, new = tmp_path / "a" / "runs", tmp_path / "b%20c" / "runs"
    (old / "s").mkdir(parents=True)

    def at(words: list[str], runs: Path) -> list[str]:
        texts = [word.format(str(runs), old=str(old)) for word in words]
        return [os.path.normpath(text) if text.startswith("/") else text for text in texts]

    typed = [word.replace("runs/../", "") for word in at(given, old)]
    write_begun(old / "s", typed)
    new.parent.mkdir()
    (new.parent / "o.db").touch()
    old.rename(new)
    expected = [word.replace("runs/../", "") for word in at(meant, new)]
    if "sqlite" in expected[-1]:
        expected[-1] = expected[-1].replace("%", "%25").replace("sqlite:", "sqlite+pysqlite:")
    assert words(["--study", "s", "--runs", str(new)]) == expected
    moved = read_arguments(new / "s")
    assert moved is not None
    shown = command_line(moved, new)
    assert f"--runs {new}" in shown and f"--runs {old}" not in shown


def test_options_mean_the_same_in_another_working_folder(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that was started with relative places; and its study.toml, wherever that lies now."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "corpus").symlink_to(corpus)
    (here / "own.toml").write_text((SPACES_FOLDER / "paper.toml").read_text())
    monkeypatch.chdir(here)
    typed = ["--study", "s", "--task", "demo:corpus", "--storage", "sqlite:///o.db"]
    spec = resolve(parse([*typed, "--space", "own.toml", "--runs", "runs"]).options)
    (here / "runs" / "s").mkdir(parents=True)
    (here / "runs" / "s" / "study.json").write_text('{"id": "1"}')
    record_start(here / "runs" / "s", 20, spec.arguments)
    (here / "runs" / "s" / "study.toml").write_text(to_toml(spec.lasting_options))
    monkeypatch.chdir(there)
    assert words(["--study", "s", "--runs", str(here / "runs")]) == [
        *("--task", f"demo:{here}/corpus"),
        *("--storage", f"sqlite:///{here}/o.db"),
        *("--space", f"{here}/own.toml"),
    ]
    (here / "runs").rename(there / "runs")
    # It was moved, began there, and was killed before its end wrote study.toml anew.
    for _ in range(2):
        options = parse(["--config", "runs/s/study.toml"]).options
        assert options["runs"] == there / "runs"
        assert options["task"] == f"demo:{here}/corpus"
        assert options["storage"] == f"sqlite:///{here}/o.db"
        record_start(there / "runs" / "s", 20, to_arguments(options))


def test_a_copy_of_its_file_makes_no_folder_where_the_study_was(tmp_path: Path) -> None:
    runs, copy = tmp_path / "gone" / "runs", tmp_path / "mine.toml"
    text = to_toml({"study": "s", "runs": runs, "trials": 7})
    copy.write_text(WRITTEN + text)
    assert parse(["--config", str(copy)]).options == {"study": "s", "trials": 7}
    copy.write_text(text)
    assert parse(["--config", str(copy)]).options["runs"] == runs, "a user's own file"
    runs.mkdir(parents=True)
    copy.write_text(WRITTEN + text)
    assert parse(["--config", str(copy)]).options["runs"] == runs


def test_a_shown_command_is_this_codes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another clone in the working folder has a search/run.py, too."""
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "run.py").touch()
    monkeypatch.chdir(tmp_path)
    assert command_line([], tmp_path / "runs").split()[1] == str(PROJECT_ROOT / "search/run.py")
    monkeypatch.chdir(PROJECT_ROOT)
    assert command_line([], tmp_path / "runs").split()[1] == "search/run.py"
