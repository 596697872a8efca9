"""Opening a study: new, again, and under a name that is taken."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from fdan.errors import FdanError
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space import Space
from search.optimizer.space_file import parse_space
from search.study.folder import (
    JOURNAL_FILE,
    STUDY_FILE,
    StudyError,
    driver_lock,
    record_start,
)
from search.study.identity import IDENTITY, Identity, RequestedStudy, check_same_study
from search.study.open import HOME, open_study
from search.study.status import best_trial, count_finished, read_status
from search.study.storage import open_storage
from tests.search.conftest import KNOWN, SPACE, MakeStudy

ROOT = Path(__file__).parents[3]


def test_enqueued_settings_come_first_and_once(make_study: MakeStudy) -> None:
    text = SPACE + "[[enqueue]]\nlr = 0.25\nlayers = 1\n[[enqueue]]\nlr = 0.75\n"
    searched = parse_space(text, KNOWN)
    make_study(searched)
    opened = make_study(searched)
    assert [t.state for t in opened.trials] == [TrialState.WAITING] * 2
    assert count_finished(opened) == {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
    drawn = [searched.suggest(opened.ask()) for _ in range(3)]
    assert (drawn[0]["lr"], drawn[0]["layers"], drawn[1]["lr"]) == (0.25, 1, 0.75)
    assert drawn[2]["lr"] not in (0.25, 0.75)


BASE = Identity({"lr": "0 .. 1"}, "a" * 64, {"protocol": "speaker"}, {"epochs": 9}, 0)
PLAIN = parse_space(SPACE, KNOWN)


def open_one(
    store: BaseStorage,
    folder: Path,
    identity: Identity = BASE,
    shown: str = "journal",
    searched: Space = PLAIN,
) -> optuna.Study:
    tools = make_sampler("random", searched, 0, 0), make_pruner("none", 9)
    return open_study(
        RequestedStudy("one", folder, shown, identity, searched.enqueue), store, *tools
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            Identity({"lr": "0 .. 2"}, BASE.data, BASE.split, BASE.fixed, 0),
            "space (lr: 0 .. 1, now",
        ),
        (replace(BASE, data="b" * 64), "other data"),
        (
            Identity(BASE.space, BASE.data, {"protocol": "paper"}, BASE.fixed, 0),
            "protocol: speaker",
        ),
        (replace(BASE, fixed={"epochs": 8}), "epochs: 9, now 8"),
        (replace(BASE, fixed={}), "epochs is gone"),
        (replace(BASE, seed=1), "seed 0, now 1"),
    ],
)
@pytest.mark.parametrize("url", [None, "sqlite:///{}/study.db"])
def test_another_identity_under_the_name_is_refused(
    url: str | None, other: Identity, words: str, tmp_path: Path
) -> None:
    store = open_storage(url and url.format(tmp_path), tmp_path)
    open_one(store, tmp_path)
    open_one(store, tmp_path)
    held = (tmp_path / STUDY_FILE).read_text()
    with pytest.raises(StudyError) as caught:
        open_one(store, tmp_path, other)
    message = str(caught.value)
    assert "study 'one' exists with" in message
    assert words in message
    assert "\n" not in message
    assert optuna.load_study(study_name="one", storage=store).user_attrs[IDENTITY] == (asdict(BASE))
    assert (tmp_path / STUDY_FILE).read_text() == held


def test_another_database_is_refused_before_anything_is_made_in_it(tmp_path: Path) -> None:
    """Typed in another working folder, where a file of that name lies, too."""
    first, second = (f"sqlite:///{tmp_path}/{name}.db" for name in "ab")
    open_one(open_storage(first, tmp_path), tmp_path, shown=first)
    (tmp_path / "b.db").touch()
    with pytest.raises(StudyError, match=rf"with storage {first}, now {second}: choose another"):
        check_same_study(RequestedStudy("one", tmp_path, second, BASE))
    assert (tmp_path / "b.db").read_bytes() == b""


def test_another_programs_study_is_refused(tmp_path: Path) -> None:
    store = open_storage(None, tmp_path)
    optuna.create_study(storage=store, study_name="one", direction="minimize").ask()
    with pytest.raises(StudyError, match="not made by this program"):
        open_one(store, tmp_path)


@pytest.mark.parametrize("step", ["set_study_user_attr", "create_new_trial"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_driver_that_dies_while_making_a_study_leaves_one_that_can_be_made_whole(
    step: str, times: int, tmp_path: Path
) -> None:
    """At whatever write: the same command opens it, its known good settings enqueued once."""

    class Dying(JournalStorage):
        """Its process ends after so many writes of a kind."""

        left = times

        def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
            self._die("set_study_user_attr")
            super().set_study_user_attr(study_id, key, value)

        def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
            made = super().create_new_trial(study_id, template_trial)
            self._die("create_new_trial")
            return made

        def _die(self, here: str) -> None:
            if here == step:
                self.left -= 1
                if not self.left:
                    raise SystemExit

    searched = parse_space(
        SPACE + "[[enqueue]]\nlr = 0.25\nlayers = 1\n[[enqueue]]\nlr = 0.75\n", KNOWN
    )
    journal = JournalFileBackend(str(tmp_path / JOURNAL_FILE))
    with pytest.raises(SystemExit):
        open_one(Dying(journal), tmp_path, searched=searched)
    again = open_one(open_storage(None, tmp_path), tmp_path, searched=searched)
    assert again.user_attrs[IDENTITY] == asdict(BASE)
    waiting = [trial.system_attrs["fixed_params"] for trial in again.trials]
    assert waiting == [{"lr": 0.25, "layers": 1}, {"lr": 0.75}]


def test_another_folder_on_the_same_storage_is_refused(tmp_path: Path) -> None:
    """The checkpoints and records of the study's trials are in the first one."""
    url = f"sqlite:///{tmp_path}/study.db"
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    open_one(open_storage(url, here), here, shown=url)
    with pytest.raises(StudyError) as caught:
        open_one(open_storage(url, there), there, shown=url)
    assert f"belongs to the folder {here} on {socket.gethostname()}" in str(caught.value)
    assert not (there / STUDY_FILE).exists()
    moved = here.rename(tmp_path / "moved")
    open_one(open_storage(url, moved), moved, shown=url)


@pytest.mark.parametrize("storage", ["journal", "inside", "beside"])
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_runs_folder_that_was_moved_or_copied(
    how: str, storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study goes on there. A copy is another study from now on; one that would write what is
    the original's is refused, and nothing of it has changed."""
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "one").mkdir(parents=True)
    places = {"inside": "{}/o.db", "beside": f"{tmp_path}/o.db"}

    def opens(runs: Path, outside: Mapping[str, str]) -> optuna.Study:
        folder = runs / "one"
        url = None if storage == "journal" else f"sqlite:///{places[storage].format(runs)}"
        requested = RequestedStudy("one", folder, url or "journal", BASE, outside=outside)
        check_same_study(requested)
        tools = make_sampler("random", PLAIN, 0, 0), make_pruner("none", 9)
        study = open_study(requested, open_storage(url, folder), *tools)
        record_start(folder, 9, [], storage=requested.storage_name)
        return study

    outside = {"--tracking-uri": "http://its.own:5000"}
    if storage == "beside":
        outside["--storage"] = f"sqlite:///{tmp_path}/o.db"
    opens(before, outside).ask()
    first = (before / "one" / STUDY_FILE).read_text()
    (shutil.move if how == "moved" else shutil.copytree)(before, after)
    if how == "copied" and storage == "beside":
        with pytest.raises(
            StudyError, match=rf"a copy of {before}/one, and both write --sto\S* \S*:"
        ):
            opens(after, outside)
        assert capsys.readouterr().out == ""
        assert opens(before, outside).user_attrs[HOME]["path"] == str(before / "one")
        return
    study = opens(after, outside)
    study.ask()
    assert study.user_attrs[HOME]["path"] == str(after / "one")
    assert capsys.readouterr().out == f"study one was {how} from {before}/one\n"
    assert len(opens(after, outside).trials) == 2
    assert capsys.readouterr().out == "", "told once"
    status = read_status(after, "one", None)
    assert len(status.under_way) == 2, "of the database that it has now"
    if how == "copied":
        assert (before / "one" / STUDY_FILE).read_text() == first
        assert len(opens(before, outside).trials) == 1
    else:
        assert not before.exists()


def test_a_database_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/o.db"
    open_one(open_storage(url, tmp_path), tmp_path, shown=url)
    Path(tmp_path, "o.db").rename(tmp_path / "other.db")
    with pytest.raises(StudyError, match=r"its trials are in .*/o\.db, which is not there"):
        check_same_study(RequestedStudy("one", tmp_path, url, BASE))
    with pytest.raises(StudyError, match=r"o\.db, now sqlite:.*/new\.db"):
        check_same_study(RequestedStudy("one", tmp_path, f"sqlite:///{tmp_path}/new.db", BASE))
    check_same_study(RequestedStudy("one", tmp_path, f"sqlite:///{tmp_path}/other.db", BASE))
    assert not (tmp_path / "o.db").exists()


def test_a_driver_that_died_before_it_wrote_whose_the_folder_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    store = open_storage(url, tmp_path)
    first = open_one(store, tmp_path, shown=url).user_attrs[HOME]
    (tmp_path / STUDY_FILE).unlink()
    assert open_one(store, tmp_path, shown=url).user_attrs[HOME] == first
    assert json.loads((tmp_path / STUDY_FILE).read_text())["id"] == first["id"]
    open_one(store, tmp_path, shown=url)


def test_a_storage_that_lost_the_study_is_refused(tmp_path: Path) -> None:
    """Going on would give the old trials' numbers, folders and runs to new ones."""
    open_one(open_storage(None, tmp_path), tmp_path)
    (tmp_path / JOURNAL_FILE).unlink()
    with pytest.raises(StudyError) as caught:
        open_one(open_storage(None, tmp_path), tmp_path)
    assert f"{tmp_path} holds its checkpoints and records" in str(caught.value)
    assert "its trials are gone from journal" in str(caught.value)


def test_of_two_drivers_that_start_at_once_elsewhere_one_has_the_study(tmp_path: Path) -> None:
    """Each in a folder of its own, on one database: neither of them sees the other's lock."""
    url = f"sqlite:///{tmp_path}/study.db"
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    stores = [open_storage(url, folder) for folder in folders]
    start = threading.Barrier(len(folders))

    def opens(at: int) -> str:
        start.wait()
        try:
            open_one(stores[at], folders[at], shown=url)
        except StudyError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(folders)) as pool:
        said = list(pool.map(opens, range(len(folders))))
    (first,) = (at for at, line in enumerate(said) if not line)
    words = f"belongs to the folder {folders[first]} on"
    assert sum(words in line for line in said) == len(folders) - 1, said


HOLDER = """
import sys, time
from pathlib import Path
from search.study.folder import driver_lock
with driver_lock(Path(sys.argv[1])):
    print("driving", flush=True)
    time.sleep(300)
"""


def test_a_second_driver_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "driving\n"
            with pytest.raises(StudyError) as caught, driver_lock(folder):
                pass
            words = f"study 'one' is being run by process {first.pid} on {socket.gethostname()}"
            assert words in str(caught.value)
            assert f"(kill {first.pid})" in str(caught.value)
            assert folder.is_dir(), "it is the first one's"
            first.send_signal(signal.SIGSTOP)  # asleep is not dead
            with pytest.raises(StudyError), driver_lock(folder):
                pass
        finally:
            first.kill()
    with driver_lock(folder):
        pass


def test_a_refused_new_study_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with pytest.raises(FdanError), driver_lock(folder):
        open_storage("sqlite:////no/such/folder/study.db", folder)
    assert not folder.exists()
    # One that has come about stays, and so does a folder that somebody made.
    with pytest.raises(FdanError), driver_lock(folder):
        open_one(open_storage(None, folder), folder)
        raise FdanError("the disk is full")
    assert (folder / STUDY_FILE).exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    with pytest.raises(FdanError), driver_lock(tmp_path / "mine"):
        raise FdanError("no")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_a_folder_that_cannot_be_made_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StudyError, match="Not a directory"),
        driver_lock(tmp_path / "file" / "one"),
    ):
        pass


def test_best_is_the_highest_complete_trial(make_study: MakeStudy) -> None:
    opened = make_study(parse_space(SPACE, KNOWN))
    assert best_trial(opened) is None
    for value, state in (
        (0.5, TrialState.COMPLETE),
        (0.7, TrialState.COMPLETE),
        (0.7, TrialState.COMPLETE),
        (None, TrialState.FAIL),
    ):
        opened.tell(opened.ask(), value, state)
    trial = opened.ask()
    trial.report(0.9, 1)
    opened.tell(trial, state=TrialState.PRUNED)
    found = best_trial(opened)
    assert found is not None
    assert found.number == 1


def test_a_folder_is_of_one_study_in_one_storage(tmp_path: Path) -> None:
    """Another storage under the same name would overwrite the first study's model and runs."""
    mine = BASE
    folder = tmp_path / "one"
    check_same_study(RequestedStudy("one", folder, "journal", mine))
    folder.mkdir()
    open_one(open_storage(None, folder), folder)
    check_same_study(RequestedStudy("one", folder, "journal", mine))
    with pytest.raises(StudyError, match=r"storage journal, now sqlite:///x\.db"):
        check_same_study(RequestedStudy("one", folder, "sqlite:///x.db", mine))
    with pytest.raises(StudyError, match="seed 0, now 1"):
        check_same_study(RequestedStudy("one", folder, "journal", replace(mine, seed=1)))
    (folder / STUDY_FILE).write_text("{")
    with pytest.raises(StudyError, match="cannot be read"):
        check_same_study(RequestedStudy("one", folder, "journal", mine))
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file"):
        check_same_study(RequestedStudy("file", tmp_path / "file", "journal", mine))
