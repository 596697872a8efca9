"""A cluster without a node for the trials is worth a word."""

from __future__ import annotations

import pytest

from search import room
from search.resources import Resources
from search.room import Room

SMALL = {"Alive": True, "Resources": {"CPU": 1.0}}
LARGE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}


@pytest.mark.parametrize(
    ("each", "there", "gone"),
    [
        (Resources(1), [SMALL], [DEAD]),
        (Resources(2, 1.0), [SMALL, LARGE], [SMALL, DEAD]),
        (Resources(1, 0.5), [LARGE], []),
    ],
)
def test_it_says_once_when_the_last_node_is_gone_and_once_when_one_is_back(
    each: Resources,
    there: list[dict[str, object]],
    gone: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, nodes, said = [0.0], [there], list[str]()
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    looked = Room(each, lambda: nodes[0], said.append)

    def pass_by(seconds: float) -> None:
        for _ in range(round(seconds * 2)):
            now[0] += 0.5
            looked.look()

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
    assert said[1:] == ["the cluster has a node for the trials again"]
