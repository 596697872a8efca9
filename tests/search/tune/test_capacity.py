"""A cluster without a node for the trials is worth a word."""

from __future__ import annotations

import pytest

from search.config.spec import TrialResources
from search.tune import capacity
from search.tune.capacity import Capacity
from search.worker.messages import NodeRejected

SMALL = {"Alive": True, "Resources": {"CPU": 1.0}}
LARGE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}


@pytest.mark.parametrize(
    ("each", "there", "gone"),
    [
        (TrialResources(1), [SMALL], [DEAD]),
        (TrialResources(2, 1.0), [SMALL, LARGE], [SMALL, DEAD]),
        (TrialResources(1, 0.5), [LARGE], []),
    ],
)
def test_it_says_once_when_the_last_node_is_gone_and_once_when_one_is_back(
    each: TrialResources,
    there: list[dict[str, object]],
    gone: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, nodes, said = [0.0], [there], list[str]()
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now[0])
    watched = Capacity(each, lambda: nodes[0], notify=said.append)

    def pass_by(seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            now[0] += 0.5
            watched.update()

    pass_by(60)
    assert said == []
    nodes[0] = gone
    pass_by(10)
    assert said == [], "nodes come and go"
    pass_by(300)
    (line,) = said
    assert f"no node of the cluster can hold a trial ({each})" in line and "nothing is lost" in line
    nodes[0] = there
    pass_by(60)
    assert said[1:] == [f"the cluster has room again: for {watched.max_concurrent} trials at once"]


def test_the_room_follows_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said, heard = [0.0], list[str](), list[int]()
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now[0])
    nodes = [SMALL | {"NodeID": "a"}]
    watched = Capacity(TrialResources(1), lambda: nodes, notify=said.append, on_change=heard.append)
    assert watched.max_concurrent == 1
    nodes.append(LARGE | {"NodeID": "b"})
    assert watched.max_concurrent == 1, "not yet looked at"
    now[0] += 3
    watched.update()
    assert (watched.max_concurrent, heard) == (9, [9])
    assert said == ["the cluster has room for 9 trials at once, not 1"]
    watched.exclude(NodeRejected("10.0.0.2: other data", "b"))
    watched.exclude(NodeRejected("10.0.0.2: other data", "b"))
    now[0] += 3
    watched.update()
    assert (watched.max_concurrent, watched.excluded_nodes, heard) == (1, ("b",), [9, 1])
    assert said[1] == "a node takes no part in the study: 10.0.0.2: other data"
    assert len(said) == 3


@pytest.mark.parametrize(
    ("wanted", "grows", "at_once"), [(4, False, 4), (20, False, 8), (20, True, 20)]
)
def test_what_is_wanted_is_had_where_there_is_room_or_may_be(
    wanted: int, grows: bool, at_once: int
) -> None:
    assert (
        Capacity(TrialResources(1), lambda: [LARGE], requested=wanted, grows=grows).max_concurrent
        == at_once
    )
