from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tracking.backend import limits
from tracking.backend.batching import Item, Kind, batches
from tracking.record import Record


def item(number: int, kind: Kind, key: str, value: str = "") -> Item:
    record = Record(number, 0, "x", "7", {})
    return Item(record, kind, key, 1.0 if kind == "metric" else value, number)


kinds = st.sampled_from(["metric", "metric", "metric", "param", "tag"])
values = st.sampled_from(["", "1", "2", "x" * 6000, "é" * 6000])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(kinds, st.integers(0, 300), values), max_size=150), st.integers(1, 25))
def test_limits_order_and_completeness(parts: list[tuple[Kind, int, str]], times: int) -> None:
    items = [item(n, k, f"{k}{key}", v) for n, (k, key, v) in enumerate(parts * times)]
    packed = list(batches(items))
    latest: dict[str, str] = {}
    for batch in packed:
        assert batch
        by = {k: [i for i in batch if i.kind == k] for k in ("metric", "param", "tag")}
        assert len(by["metric"]) <= 1000 and len(by["param"]) <= 100 and len(by["tag"]) <= 100
        assert len(batch) <= 1000
        for kind in ("param", "tag"):
            keys = [i.key for i in by[kind]]
            assert len(set(keys)) == len(keys)
        body = [{"key": i.key, "value": i.value, "t": 0} for i in batch]
        assert len(json.dumps(body)) < 1e6
        latest |= {i.key: i.value for i in by["tag"]}
    sent = [i for batch in packed for i in batch]
    metrics = [i for i in sent if i.kind == "metric"]
    assert metrics == [i for i in items if i.kind == "metric"]
    assert latest == {i.key: i.value for i in items if i.kind == "tag"}
    params = {(i.key, i.value) for i in items if i.kind == "param"}
    assert {(i.key, i.value) for i in sent if i.kind == "param"} == params


def test_a_thousand_metrics_are_one_call() -> None:
    items = [item(n, "metric", "uar") for n in range(1001)]
    assert [len(batch) for batch in batches(items)] == [1000, 1]
    assert limits.PER_CALL["metric"] == 1000


def test_a_second_value_of_a_parameter_is_asked_apart() -> None:
    items = [item(1, "param", "a", "1"), item(2, "param", "b", "1"), item(3, "param", "a", "2")]
    assert [[str(i) for i in batch] for batch in batches(items)] == [
        ["param a", "param b"],
        ["param a"],
    ]
