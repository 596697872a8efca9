"""Promotions at the same time, and promotions that are killed: real processes, a real database, a
real server."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.finished import link
from tests.tracking import by_hand
from tracking.promotion.promote import PromotionOptions, promote
from tracking.promotion.rollback import rollback
from tracking.registry.promotion_lock import promotion_lock
from tracking.registry.registry import CHAMPION, Registry

if TYPE_CHECKING:
    from conftest import MlflowServer, Tables

Start = Callable[..., "subprocess.Popen[str]"]
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache")]

# `python -m tracking`, without loading the packaged model, which is most of a
# promotion's time. tests/tracking/promotion/test_promote.py has it loaded.
QUICK = """
import sys
from tracking import __main__
from tracking.promotion.challenger import Challenger

Challenger.package_probabilities = property(lambda self: self.predictions.probabilities)
sys.exit(__main__.main(sys.argv[1:]))
"""

# A promotion that ends as a power cut would end it, at the first call of a method.
KILLED = """
import os, signal, sys
from pathlib import Path
from tracking.promotion.challenger import Challenger
from tracking.promotion.promote import PromotionOptions, promote
from tracking.registry import registry

study, uri, name, method = sys.argv[1:]
client = registry.connect(uri)
real = getattr(type(client), method)

def dies(self, *args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(type(client), method, dies)
Challenger.package_probabilities = property(lambda self: self.predictions.probabilities)
promote(Path(study), PromotionOptions(name, uri))
"""


@pytest.mark.usefixtures("quick")
def test_a_kill_changes_no_champion_and_the_next_one_goes_on(
    database: Tables, finished: Path, tmp_path: Path, python: Start
) -> None:
    """Killed before the version is made, before the alias is moved, and before the account of it
    is written."""
    good, uri = link(finished / "good", tmp_path / "good"), database.uri
    registry = Registry(uri, "fdan")
    by_hand.champion(registry, finished / "bad")
    for method in ("create_model_version", "set_registered_model_alias"):
        process = python("-c", KILLED, str(good), uri, "fdan", method)
        _, err = process.communicate(timeout=240)
        assert process.returncode == -signal.SIGKILL, err
        assert registry.aliases() == {CHAMPION: "1"}
    assert [one.tags["state"] for one in registry.versions()] == ["candidate", "champion"]

    verdict = promote(good, PromotionOptions(uri=uri))
    assert verdict.version == "fdan/2", "the candidate is used again"
    assert registry.aliases() == {CHAMPION: "2", "previous": "1"}
    assert [one.tags["state"] for one in registry.versions()] == ["champion", "replaced"]
    assert len(database.rows("select model_id from logged_models")) == 2, "nothing is left over"

    # Killed between the alias and its account: the same promotion, or any other, completes it.
    registry.set_version_tags("2", {"state": "candidate"})
    again = promote(good, PromotionOptions(uri=uri))
    assert again.promoted and not again.changed
    assert registry.versions()[0].tags["state"] == "champion"
    assert not [key for key in registry.tags() if key.startswith("fdan.promoting")]


@pytest.mark.parametrize("where", ["database", "server"])
def test_two_at_once_do_not_both_win(
    where: str,
    database: Tables,
    request: pytest.FixtureRequest,
    finished: Path,
    tmp_path: Path,
    python: Start,
) -> None:
    """Both would be the first champion by themselves. The later one is compared with the earlier
    one, and `bad` does not win against `good`, nor is there a moment without order."""
    uri, name = database.uri, "fdan"
    if where == "server":
        server: MlflowServer = request.getfixturevalue("server")
        uri, name = server.uri, f"fdan-{time.time_ns()}"
    started = {}
    for kind in ("good", "bad"):
        folder = link(finished / kind, tmp_path / kind)
        words = ("promote", str(folder), "--tracking-uri", uri, "--name", name)
        words += ("--accept-yardstick-tie",)
        started[kind] = python("-c", QUICK, *words)
    ended = {}
    for kind, process in started.items():
        out, err = process.communicate(timeout=280)
        ended[kind] = process.returncode
        assert process.returncode in (0, 1), (out, err)
    registry = Registry(uri, name)
    champion = registry.version_by_alias(CHAMPION)
    assert champion is not None and champion.tags["study"] == "good"
    assert ended["good"] == 0
    if ended["bad"] == 0:  # it was the first, and has been replaced
        assert registry.versions()[1].tags["state"] == "replaced"
        assert champion.tags["verdict"].startswith("better")
    else:
        assert len(registry.versions()) == 1
    assert not [key for key in registry.tags() if key.startswith("fdan.promoting")]


@pytest.mark.usefixtures("quick")
def test_the_same_study_at_once(
    database: Tables,
    finished: Path,
    tmp_path: Path,
    python: Start,
    request: pytest.FixtureRequest,
) -> None:
    """Two promotions wait, as if behind a third of the same study: one goes on when that study is
    champion, the other when it has been rolled back. Neither promotes it, and the champion's run
    does not say that it was refused."""
    good, uri = link(finished / "good", tmp_path / "good"), database.uri
    registry = Registry(uri, "fdan")
    by_hand.champion(registry, finished / "bad")
    with promotion_lock(registry, print, 5):
        words = ("-c", QUICK, "promote", str(good), "--tracking-uri", uri)
        waiting = [python(*words), python(*words)]
        for process in waiting:  # a stopped one would outlive a test that fails
            request.addfinalizer(process.kill)
        for process in waiting:
            _read_until(process, "waiting for another promotion")
            process.send_signal(signal.SIGSTOP)
    assert promote(good, PromotionOptions(uri=uri)).version == "fdan/2"

    quick, slow = waiting
    quick.send_signal(signal.SIGCONT)
    out, err = quick.communicate(timeout=240)
    assert quick.returncode == 0 and "champion by now, as fdan/2" in out + err
    (told,) = database.rows("select value from tags where key = 'promotion'")
    assert "champion as fdan/2" in told[0] and "refused" not in told[0]

    rollback(uri, "fdan", "too quick")
    slow.send_signal(signal.SIGCONT)
    out, err = slow.communicate(timeout=240)
    assert slow.returncode == 1 and "too quick" in err.splitlines()[-1]
    assert registry.aliases() == {CHAMPION: "1"} and len(registry.versions()) == 2


def _read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read what it says until it has said that."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))
