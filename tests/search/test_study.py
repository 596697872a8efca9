"""Opening a study: new, again, and under a name that is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fdan.errors import ConfigError
from search import pruners, samplers, space, storage, study
from search.study import Identity, StudyError
from tests.search.conftest import KNOWN, SPACE, MakeStudy


def test_enqueued_settings_come_first_and_once(make_study: MakeStudy) -> None:
    text = SPACE + "[[enqueue]]\nlr = 0.25\nlayers = 1\n[[enqueue]]\nlr = 0.75\n"
    searched = space.parse(text, KNOWN)
    make_study(searched)
    opened = make_study(searched)
    assert [t.state for t in opened.trials] == [TrialState.WAITING] * 2
    assert study.counts(opened) == {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}
    drawn = [searched.suggest(opened.ask()) for _ in range(3)]
    assert (drawn[0]["lr"], drawn[0]["layers"], drawn[1]["lr"]) == (0.25, 1, 0.75)
    assert drawn[2]["lr"] not in (0.25, 0.75)


BASE = Identity({"lr": "0 .. 1"}, "a" * 64, {"protocol": "speaker"}, {"epochs": 9}, 0)


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
    searched = space.parse(SPACE, KNOWN)
    tools = samplers.make("random", searched, 0, 0), pruners.make("none", 9), searched
    store = storage.open_storage(url and url.format(tmp_path), tmp_path)
    study.open_study("one", store, BASE, *tools)
    study.open_study("one", store, BASE, *tools)
    with pytest.raises(StudyError) as caught:
        study.open_study("one", store, other, *tools)
    message = str(caught.value)
    assert "study 'one' exists with" in message
    assert words in message
    assert "\n" not in message
    assert optuna.load_study(study_name="one", storage=store).user_attrs[study.IDENTITY] == (
        BASE.as_dict()
    )


def test_trials_of_a_dead_driver_are_ended(make_study: MakeStudy) -> None:
    searched = space.parse(SPACE, KNOWN)
    opened = make_study(searched)
    trial = opened.ask()
    trial.report(0.5, 1)
    study.end_abandoned(opened)
    assert opened.trials[0].state is TrialState.FAIL
    assert opened.trials[0].user_attrs[study.REASON] == "left by a driver that died"
    assert opened.trials[0].intermediate_values == {1: 0.5}


def test_best_is_the_highest_complete_trial(make_study: MakeStudy) -> None:
    opened = make_study(space.parse(SPACE, KNOWN))
    assert study.best(opened) is None
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
    found = study.best(opened)
    assert found is not None
    assert found.number == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://me@host/db", "expected sqlite"),
        ("sqlite:////no/such/folder/study.db", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/db", "--storage postgresql://me:***@"),
    ],
)
def test_a_storage_that_cannot_be_opened(url: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        storage.open_storage(url, tmp_path)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_of_one_study_in_one_storage(tmp_path: Path) -> None:
    """Another storage under the same name would overwrite the first study's model and runs."""
    mine = Identity({"alpha": 1}, "d" * 64, {"protocol": "speaker"}, {"lr": 0.1}, 0)
    folder = tmp_path / "s"
    study.check_folder(folder, "s", "journal", mine)
    study.own_folder(folder, "journal", mine)
    study.check_folder(folder, "s", "journal", mine)
    with pytest.raises(StudyError, match=r"storage journal, now sqlite:///x\.db"):
        study.check_folder(folder, "s", "sqlite:///x.db", mine)
    with pytest.raises(StudyError, match="seed 0, now 1"):
        study.check_folder(folder, "s", "journal", replace(mine, seed=1))
    (folder / study.OWNER).write_text("{")
    with pytest.raises(StudyError, match="cannot be read"):
        study.check_folder(folder, "s", "journal", mine)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file"):
        study.check_folder(tmp_path / "file", "file", "journal", mine)
