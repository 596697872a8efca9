"""From finished studies to a champion and back, in a real MLflow database."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fdan.errors import FdanError
from tests.finished import link
from tests.tracking import by_hand
from tracking.__main__ import main
from tracking.commands import study_folder
from tracking.promotion.promote import PromotionOptions, promote
from tracking.promotion.rollback import rollback
from tracking.registry.registry import CHAMPION, PREVIOUS, NewVersion, Registry
from tracking.result import Check, StudyResult

if TYPE_CHECKING:
    from conftest import Tables

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache", "elsewhere")]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder to work in, which stays empty: MLflow makes a database in one if asked."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert not list(here.iterdir())


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A finished study of the test's own."""
    return lambda name: link(finished / name, tmp_path / "runs" / name)


Study = Callable[[str], Path]


def registered(database: Tables) -> dict[str, list[tuple[Any, ...]]]:
    """All that the registry's tables hold."""
    names = [
        name
        for (name,) in database.rows("select name from sqlite_master where type = 'table'")
        if name.startswith(("registered", "model_version", "logged_model"))
    ]
    return {name: database.rows(f"select * from {name}") for name in names}


def aliases(database: Tables) -> dict[str, str]:
    return Registry(database.uri, "fdan").aliases()


def changed(study: Path, **fields: Any) -> None:
    """Rewrite fields of a study's result."""
    dataclasses.replace(StudyResult.load(study), **fields).save(study)


def test_a_dry_run_changes_nothing(database: Tables, study: Study) -> None:
    options = ["--dry-run", "--accept-yardstick-tie", "--tracking-uri", database.uri]
    assert main(["promote", str(study("bad")), *options]) == 0
    assert not any(registered(database).values())


@pytest.mark.usefixtures("quick")
def test_a_champion_is_made_replaced_and_restored(database: Tables, study: Study) -> None:
    """First, better, worse, tie, accepted tie; then back, and back again."""
    bad, good, small = study("bad"), study("good"), study("small")
    uri = database.uri

    first = promote(bad, PromotionOptions(uri=uri, accept_yardstick_tie=True))
    assert (first.promoted, first.changed, first.version) == (True, True, "fdan/1")
    assert "first" in first.reason
    assert aliases(database) == {CHAMPION: "1"}

    again = promote(bad, PromotionOptions(uri=uri))
    assert (again.promoted, again.changed) == (True, False)

    better = promote(good, PromotionOptions(uri=uri))
    assert (better.version, better.replaced) == ("fdan/2", "fdan/1")
    found = [float(p) for p in re.findall(r"p = (\d\.\d+)", better.reason)]
    assert len(found) == 2 and max(found) < 0.05, "against the champion, and the yardstick"
    assert aliases(database) == {CHAMPION: "2", PREVIOUS: "1"}

    before = registered(database)
    worse = promote(bad, PromotionOptions(uri=uri, accept_tie=True, accept_yardstick_tie=True))
    assert not worse.promoted and "worse than the champion" in worse.reason
    tie = promote(small, PromotionOptions(uri=uri))
    assert not tie.promoted and "not distinguishable" in tie.reason
    assert registered(database) == before

    # What a promotion of another study has left that was killed before it moved the alias.
    registry = Registry(uri, "fdan")
    (bad / "left").mkdir()
    (bad / "left" / "README.md").write_text("half a model")
    left = {"sha256": "0" * 64, "study_id": "another", "state": "candidate"}
    registry.add_version(NewVersion(bad / "left", *by_hand.run(registry), left, ""))

    cheaper = promote(small, PromotionOptions(uri=uri, accept_tie=True))
    assert [one.number for one in registry.versions()] == ["4", "2", "1"]
    assert cheaper.version == "fdan/4" and "cheaper" in cheaper.reason
    dearer = promote(good, PromotionOptions(uri=uri, accept_tie=True))
    assert not dearer.promoted and "not cheaper" in dearer.reason

    # Why, on each of them.
    one, two, three = (registry.version(number) for number in "124")
    assert one and two and three
    assert (one.tags["state"], two.tags["state"], three.tags["state"]) == (
        *("replaced", "replaced"),
        "champion",
    )
    assert three.tags["replaces"] == "2" and two.tags["replaced"].startswith("replaced by fdan/4")
    assert three.tags["verdict"] == cheaper.reason
    for tag in ("study", "study_id", "trial", "seed", "data", "protocol", "sha256", "git"):
        assert three.tags[tag], tag
    for tag in ("test.uar", "test.uar.interval", "version.torch", "promoted", "promoted_by"):
        assert three.tags[tag], tag

    assert "fdan/2 is champion again" in rollback(uri, "fdan", "too quick")
    assert aliases(database) == {CHAMPION: "2", PREVIOUS: "1"}
    refused = promote(small, PromotionOptions(uri=uri, accept_tie=True))
    assert not refused.promoted and "too quick" in refused.reason
    rollback(uri, "fdan", "no reason given")
    assert aliases(database) == {CHAMPION: "1"}
    with pytest.raises(FdanError, match="nothing to go back to"):
        rollback(uri, "fdan", "no reason given")
    restored = registry.version("1")
    assert restored is not None and restored.tags["state"] == "champion"
    assert len(restored.tags["history"].splitlines()) == 3


@pytest.mark.usefixtures("quick")
def test_a_champion_that_is_moved_by_hand_meanwhile_stays(
    database: Tables, study: Study, finished: Path
) -> None:
    """Between the comparison and the move: "nothing was moved" is said of `previous`, too."""
    registry = Registry(database.uri, "fdan")
    by_hand.champion(registry, finished / "small")
    by_hand.champion(registry, finished / "bad")

    def meddle(line: str) -> None:
        if line.startswith("registering"):
            by_hand.name_alias(registry, CHAMPION, "1")

    with pytest.raises(FdanError, match=r"version 1 of fdan champion .*nothing was moved"):
        promote(study("good"), PromotionOptions(uri=database.uri), log=meddle)
    assert aliases(database) == {CHAMPION: "1"}


@pytest.mark.usefixtures("quick")
def test_refused_where_another_promotion_accepts_the_tie(
    database: Tables, study: Study, finished: Path
) -> None:
    """Of the same study, at the same time: the champion's run does not say that it was refused."""
    folder = study("small")
    by_hand.champion(Registry(database.uri, "fdan"), finished / "good")

    def be_quicker(line: str) -> None:
        if line == "checking the study":
            assert (
                promote(folder, PromotionOptions(uri=database.uri, accept_tie=True)).version
                == "fdan/2"
            )

    verdict = promote(folder, PromotionOptions(uri=database.uri), log=be_quicker)
    assert not verdict.promoted and "not distinguishable" in verdict.reason
    told = database.rows("select value from tags where key = 'promotion'")
    assert len(told) == 1 and "champion as fdan/2" in told[0][0]


def test_runs_and_their_page_say_it(
    database: Tables,
    study: Study,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A study whose runs are there: they are tagged, the version names the winner's run and has
    the card; `champion` shows it."""
    folder, name = study("good"), "good"
    from tracking.tracker import Tracker

    with Tracker(folder / "spool", database.uri, "fdan-search") as tracker:
        tracker.open_study(name, {}, {})
        tracker.open_run("confirm-1", {}, {})
        tracker.close_run("confirm-1", "COMPLETE", "done")
        tracker.close_run("study", "COMPLETE", "done")
        assert tracker.drain(60)
        study_id = tracker.study_id
    changed(folder, study_id=study_id, tracking_uri=database.uri)
    assert main(["promote", str(folder)]) == 0
    assert "fdan/1 is champion" in capsys.readouterr().out
    for run in (name, "confirm-0001"):
        assert "champion as fdan/1" in database.tags(run)["promotion"]
    rows = database.rows("select name, run_id, description from model_versions")
    run_id = database.rows("select run_uuid from runs where name = 'confirm-0001'")[0][0]
    assert rows[0][:2] == ("fdan", run_id)
    card = rows[0][2]
    assert len(card) <= 5000
    for words in ("test UAR", "Intended use", "models:/fdan@champion", "by speaker", "optimism"):
        assert words in card
    assert main(["champion", "--tracking-uri", database.uri]) == 0
    out = capsys.readouterr().out
    assert "champion: fdan/1" in out and "first one" in out


def _without_winner(study: Path) -> None:
    shutil.rmtree(study / "winner")


def _other_model(study: Path) -> None:
    file = study / "winner" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def _truncated(study: Path) -> None:
    file = study / "winner" / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])


def _other_answers(study: Path) -> None:
    """One utterance right that was wrong."""
    file = study / "winner" / "test.csv"
    rows = file.read_text().splitlines()
    for i, row in enumerate(rows[1:], start=1):
        cells = row.split(",")
        if cells[3] != cells[4]:
            place = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
            cells[5:] = ["1" if emotion == cells[3] else "0" for emotion in place]
            cells[4] = cells[3]
            rows[i] = ",".join(cells)
            break
    file.unlink()
    file.write_text("\n".join(rows) + "\n")


def _test(study: Path, **fields: Any) -> None:
    test = StudyResult.load(study).test
    assert test is not None
    changed(study, test=dataclasses.replace(test, **fields))


def _confirm(study: Path, **fields: Any) -> None:
    confirm = StudyResult.load(study).confirm
    assert confirm is not None
    changed(study, confirm=dataclasses.replace(confirm, **fields))


def _origin(study: Path, **fields: Any) -> None:
    """In the result and in the model, as if another study had been on other data."""
    origin = {**StudyResult.load(study).origin, **fields}
    changed(study, origin=origin)
    file = study / "winner" / "model.json"
    facts = {**json.loads(file.read_text()), **fields}
    file.unlink()
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: changed(s, state="PAUSED", reason="3 of 5 trials"), "PAUSED (3 of 5 trials)"),
        (lambda s: changed(s, confirm=None), "no winner was confirmed"),
        (lambda s: _confirm(s, winner=4), "the confirmed winner is trial 4"),
        (lambda s: changed(s, test=None), "the test part was not scored"),
        (lambda s: _test(s, trial=2, run=0), "the study has another winner since its test part"),
        (lambda s: _test(s, run=0), "--score-again 'REASON'"),
        (lambda s: changed(s, checks=(Check("a", False, "b"),)), "not so: a (b)"),
        (lambda s: changed(s, checks=()), "checked nothing"),
        (_without_winner, "no model.json in it"),
        (_other_model, "is not what was scored"),
        (_truncated, "damaged"),
        (_other_answers, "test.csv gives uar"),
        (lambda s: _test(s, samples=27), "27"),
        (lambda s: _origin(s, data="0" * 64), "holds other data"),
    ],
)
def test_what_is_not_fit_is_refused_and_nothing_changes(
    database: Tables,
    study: Study,
    spoil: Callable[[Path], None],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = study("good")
    spoil(folder)
    before = database.rows("select * from experiments"), registered(database)
    assert main(["promote", str(folder), "--tracking-uri", database.uri]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if line.startswith("error: ")]) == 1
    assert err[-1].startswith("error: not promoted: ") and words in err[-1]
    assert (database.rows("select * from experiments"), registered(database)) == before


def test_a_store_that_is_gone(database: Tables, study: Study, tmp_path: Path) -> None:
    verdict = promote(
        study("good"), PromotionOptions(uri=database.uri, stores=tmp_path / "elsewhere")
    )
    assert not verdict.promoted and "is gone" in verdict.reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["promote", "nowhere"], "no such folder"),
        (["promote", "{study}", "--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["promote", "{study}", "--tracking-uri", "file:///tmp"], "plain folders"),
        (["promote", "{study}", "--name", "a/b"], "no name for a model"),
        (["rollback", "--tracking-uri", "{uri}"], "nothing to roll back"),
        (["champion", "--tracking-uri", "sqlite:////nowhere/mlflow.db"], "no such MLflow database"),
    ],
)
def test_there_is_no_verdict(
    database: Tables,
    study: Study,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = study("good")
    filled = [word.format(study=folder, uri=database.uri) for word in arguments]
    assert main(filled) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("error: ") and words in err[-1]


def test_a_study_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ./runs; a folder that is there is meant itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert study_folder("demo") == Path("runs/demo")
    assert study_folder("runs/demo") == Path("runs/demo")
    with pytest.raises(FdanError, match="no such folder, and no study 'nowhere' in"):
        study_folder("nowhere")
    with pytest.raises(FdanError, match="no such folder; give a study's folder"):
        study_folder("a/nowhere")
    (tmp_path / "demo").mkdir()
    assert study_folder("demo") == Path("demo")
