"""Storages that fail: away, silent after they did what they were told, full, torn."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.storages.journal._file import LOCK_FILE_SUFFIX
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy.exc import OperationalError

from fdan.errors import ConfigError
from search.callbacks.progress import Progress
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space_file import parse_space
from search.study.events import REASON
from search.study.folder import JOURNAL_FILE
from search.study.identity import Identity, RequestedStudy
from search.study.open import open_study
from search.study.status import running_trials
from search.study.storage import open_storage, open_storage_read_only
from search.study.storage_retry import StorageError, StorageRetry, translate_storage_errors
from search.worker.messages import EpochResult
from tests.postgres import postgres
from tests.search.conftest import KNOWN, SPACE, ControllerOptions, Heard, controller_of

pytestmark = pytest.mark.long

EPOCHS = 4
OPENERS = 6
SERVER = "postgresql://me:secret@nowhere/db"
SEARCHED = parse_space(SPACE + "[[enqueue]]\nlr = 0.25\nlayers = 1\n", KNOWN)


def opened(store: optuna.storages.BaseStorage, folder: Path) -> optuna.Study:
    identity = Identity(SEARCHED.as_dict(), "data", {}, {}, 0)
    tools = make_sampler("random", SEARCHED, 0, 0), make_pruner("none", EPOCHS)
    return open_study(
        RequestedStudy("s", folder, "here", identity, SEARCHED.enqueue), store, *tools
    )


def lost() -> OperationalError:
    return OperationalError("insert", {}, Exception("server closed the connection\nunexpectedly"))


class Lossy(RDBStorage):
    """A real database. The connection breaks once at each of the `doomed` calls: before it did
    what it was told, or after, so that only its answer is lost."""

    doomed = frozenset[str]()
    after = False
    broke = 0

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        call = getattr(super(), name)
        if name not in self.doomed:
            return call(*args, **kwargs)
        self.doomed -= {name}
        self.broke += 1
        if self.after:
            call(*args, **kwargs)
        raise lost()

    def _create_new_trial(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("_create_new_trial", *args, **kwargs)

    def _set_trial_param(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("_set_trial_param", *args, **kwargs)

    def set_trial_intermediate_value(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("set_trial_intermediate_value", *args, **kwargs)

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("set_trial_state_values", *args, **kwargs)

    def set_trial_user_attr(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("set_trial_user_attr", *args, **kwargs)

    def get_trial(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("get_trial", *args, **kwargs)

    def _get_trials(self, *args: Any, **kwargs: Any) -> Any:
        return self._call("_get_trials", *args, **kwargs)


CALLS = (
    "_create_new_trial",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_trial_user_attr",
    "get_trial",
    "_get_trials",
)


@pytest.mark.parametrize("after", [False, True], ids=["not done", "done, answer lost"])
@pytest.mark.parametrize("call", CALLS)
def test_a_broken_connection_neither_loses_nor_doubles_anything(
    call: str, after: bool, tmp_path: Path
) -> None:
    store = Lossy(f"sqlite:///{tmp_path}/study.db")
    one = opened(store, tmp_path)
    said = list[str]()
    heard = Heard()
    patience = StorageRetry(SERVER, said.append, lambda: False)
    controller = controller_of(
        one, SEARCHED, EPOCHS, heard, options=ControllerOptions(trials=2, retry=patience)
    )
    for _ in range(2):
        store.doomed, store.after = frozenset({call}), after  # once in every trial
        number = controller.start_new().number
        for epoch in range(1, EPOCHS + 1):
            assert not controller.record(number, EpochResult(epoch, epoch / 10))
        controller.release(number)
    trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert [trial.number for trial in heard.ended] == [0, 1]
    assert trials[0].params == {"lr": 0.25, "layers": 1, "heads": trials[0].params["heads"]}
    for trial in trials:
        assert trial.params == heard.asked_for[trial.number]
        assert trial.intermediate_values == {e: e / 10 for e in range(1, EPOCHS + 1)}
        assert (trial.value, trial.user_attrs[REASON]) == (0.4, "epoch 4: value 0.400")
    assert store.broke
    assert len(said) == 2 * store.broke
    away = "storage postgresql://me:***@nowhere/db is away (server closed the connection)"
    assert away in said[0] and "the study waits for it" in said[0]
    assert said[1].startswith("Optuna's storage is back after ")


def test_it_waits_for_as_long_as_the_study_may_last() -> None:
    began = time.monotonic()
    calls = 0

    def action() -> None:
        nonlocal calls
        calls += 1
        raise lost()

    patience = StorageRetry(SERVER, lambda line: None, lambda: time.monotonic() > began + 1)
    with pytest.raises(StorageError) as caught:
        patience.call(action)
    assert 3 <= calls <= 6, "neither once nor without a pause"
    assert "postgresql://me:***@nowhere/db failed: server closed the connection" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_a_fault_of_our_own_is_not_waited_for() -> None:
    def action() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        StorageRetry(SERVER, lambda line: None, lambda: False).call(action)


@contextlib.contextmanager
def full(file: Path, room: int) -> Iterator[None]:
    """No file of this process grows beyond the size of `file` and `room` bytes, as on a full disk.
    Python ignores the signal, so a write fails; it may have written a part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path) -> None:
    one = opened(open_storage(None, tmp_path), tmp_path)
    controller = controller_of(one, SEARCHED, EPOCHS)
    number = controller.start_new().number
    controller.record(number, EpochResult(1, 0.1))
    before = (tmp_path / JOURNAL_FILE).read_bytes()
    with full(tmp_path / JOURNAL_FILE, 10), pytest.raises(StorageError) as caught:
        controller.record(number, EpochResult(2, 0.2))
    words = "Optuna's journal cannot be written (File too large): what it holds is whole"
    assert words in str(caught.value)
    assert (tmp_path / JOURNAL_FILE).read_bytes() == before, "no part of a line"
    found = optuna.load_study(study_name="s", storage=open_storage_read_only(None, tmp_path))
    assert found.trials[number].intermediate_values == {1: 0.1}
    # Somebody makes room: the next driver goes on.
    one = opened(open_storage(None, tmp_path), tmp_path)
    again = controller_of(one, SEARCHED, EPOCHS)
    again.resume(one.trials[number], {})
    assert again.start().start_epoch == 1
    again.record(number, EpochResult(2, 0.2))
    assert one.trials[number].intermediate_values == {1: 0.1, 2: 0.2}


def test_a_disk_that_is_full_while_a_trial_starts_is_said_as_such(tmp_path: Path) -> None:
    """What a search does then: the trials rest, and its listeners hear of those they know."""
    one = opened(open_storage(None, tmp_path), tmp_path)
    heard = Heard()
    with Progress(Console(quiet=True), "s", 3, EPOCHS) as progress:
        controller = controller_of(one, SEARCHED, EPOCHS, progress, heard)
        number = controller.start_new().number
        started = (tmp_path / JOURNAL_FILE).stat().st_size
        controller.start_new()
        per_trial = (tmp_path / JOURNAL_FILE).stat().st_size - started
        # Room for the trial, not for all of its settings.
        with full(tmp_path / JOURNAL_FILE, per_trial // 2), pytest.raises(StorageError):
            controller.start_new()
        controller.pause_all("the disk is full")
    assert [paused for paused, _ in heard.pauses] == [number, number + 1]
    assert len(running_trials(one)) == 3
    assert progress.running == {}


def test_a_database_file_that_cannot_be_written_is_not_waited_for(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    one = opened(open_storage(url, tmp_path), tmp_path)
    patience = StorageRetry(url, lambda line: None, lambda: False)
    controller = controller_of(one, SEARCHED, 1000, options=ControllerOptions(retry=patience))
    number, written = controller.start_new().number, 0
    with full(tmp_path / "study.db", 0), pytest.raises(StorageError) as caught:
        while written < 1000:
            controller.record(number, EpochResult(written + 1, 0.5))
            written += 1
    assert f"Optuna's storage {url} failed: " in str(caught.value)
    assert "\n" not in str(caught.value)
    found = optuna.load_study(study_name="s", storage=open_storage_read_only(url, tmp_path))
    assert found.trials[number].last_step == written


@pytest.mark.parametrize(
    "torn",
    [b'{"op_code": 7, "wor', b"\0" * 5000, b'{"op_code":' + b"x" * (1 << 21)],
    ids=["half a line", "zeros", "long"],
)
def test_a_journal_with_a_torn_last_line_opens(torn: bytes, tmp_path: Path) -> None:
    one = opened(open_storage(None, tmp_path), tmp_path)
    one.ask().report(0.5, 1)
    whole = (tmp_path / JOURNAL_FILE).read_bytes()
    with (tmp_path / JOURNAL_FILE).open("ab") as journal:
        journal.write(torn)
    # Whoever only looks touches nothing.
    looked = optuna.load_study(study_name="s", storage=open_storage_read_only(None, tmp_path))
    assert looked.trials[0].intermediate_values == {1: 0.5}
    assert (tmp_path / JOURNAL_FILE).stat().st_size == len(whole) + len(torn)

    store = open_storage(None, tmp_path)
    assert (tmp_path / JOURNAL_FILE).read_bytes() == whole
    opened(store, tmp_path).ask().report(0.7, 1)
    found = opened(open_storage(None, tmp_path), tmp_path)
    assert [trial.intermediate_values for trial in found.trials] == [{1: 0.5}, {1: 0.7}]


def test_the_lock_of_a_dead_driver_does_not_hold_the_next_one_up(tmp_path: Path) -> None:
    """Optuna would wait half a minute for it."""
    opened(open_storage(None, tmp_path), tmp_path)
    stale = tmp_path / (JOURNAL_FILE + LOCK_FILE_SUFFIX)
    stale.symlink_to(tmp_path / JOURNAL_FILE)
    began = time.monotonic()
    opened(open_storage(None, tmp_path), tmp_path).ask()
    assert time.monotonic() - began < 5
    assert not stale.is_symlink()


@pytest.mark.parametrize("url", [None, "sqlite:///{}/study.db"])
def test_looking_makes_nothing(url: str | None, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        open_storage_read_only(url and url.format(tmp_path), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me@host/db", "expected sqlite"),
        ("sqlite:////no/such/folder/study.db", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/db", "--storage postgresql://me:***@"),
        (
            "postgresql://127.0.0.1:1/db?password=secret",
            "--storage postgresql://127.0.0.1:1/db?pass",
        ),
    ],
)
def test_a_storage_that_cannot_be_opened(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_storage(url, tmp_path)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def open_at_once(url: str, folder: Path) -> None:
    """What drivers whose studies share a new database do, and what looks at them meanwhile."""
    ready = threading.Barrier(OPENERS)

    def opening(_: int) -> RDBStorage:
        ready.wait(30)
        store = open_storage(url, folder)
        assert isinstance(store, RDBStorage)
        return store

    with ThreadPoolExecutor(OPENERS) as pool:
        for number, store in enumerate(pool.map(opening, range(OPENERS))):
            optuna.create_study(study_name=str(number), storage=store)
            store.engine.dispose()
    found = open_storage_read_only(url, folder)
    assert isinstance(found, RDBStorage)
    names = {one.study_name for one in found.get_all_studies()}
    found.engine.dispose()
    assert names == {str(number) for number in range(OPENERS)}


def test_a_new_postgresql_is_opened_by_many_at_once(tmp_path: Path) -> None:
    with postgres(tmp_path) as server:
        for again in range(3):
            open_at_once(server.database(f"new{again}"), tmp_path)


def test_a_new_sqlite_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    for again in range(3):
        open_at_once(f"sqlite:///{tmp_path}/new{again}.db", tmp_path)


def test_whoever_looks_into_a_study_waits_for_its_server(tmp_path: Path) -> None:
    """Also where nobody reports: before the first trial, and after the last one."""
    with postgres(tmp_path) as server:
        one = opened(open_storage(server.url, tmp_path), tmp_path)
        said = list[str]()
        given_up = threading.Event()
        StorageRetry(server.url, said.append, given_up.is_set).wait_for_connections(one)
        number = one.ask().number
        server.stop("immediate")
        back = threading.Timer(2.0, server.start)
        back.start()
        assert [trial.number for trial in one.trials[: number + 1]] == [number]
        back.join()
        away, there = said
        assert " is away (" in away and "the study waits for it, nothing is lost" in away
        assert there.startswith("Optuna's storage is back after ")
        server.stop("immediate")
        given_up.set()
        failing = translate_storage_errors(server.url)
        with pytest.raises(StorageError, match="the same command continues"), failing:
            one.get_trials()
        assert len(said) == 2
