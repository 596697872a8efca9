from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tracking.record import Record, parse

texts = st.text(max_size=20)
data = st.dictionaries(
    texts, st.integers() | texts | st.floats(allow_nan=False, width=64) | st.none()
)
records = st.builds(
    Record,
    number=st.integers(1, 10**12),
    time=st.integers(0, 10**13),
    kind=st.sampled_from(["open", "metrics", "close"]),
    run=texts,
    data=data.map(lambda d: {k: v for k, v in d.items() if v not in (float("inf"), -float("inf"))}),
)


@given(records)
def test_a_line_is_json_and_comes_back_exactly(record: Record) -> None:
    line = record.line()
    assert line.count(b"\n") == 1
    assert json.loads(line)["n"] == record.number
    assert parse(line) == record


@given(records, st.data())
def test_a_torn_or_spoilt_line_is_told(record: Record, draw: st.DataObject) -> None:
    line = record.line()
    cut = draw.draw(st.integers(0, len(line) - 1))
    assert parse(line[:cut]) is None
    at = draw.draw(st.integers(0, len(line) - 1))
    byte = draw.draw(st.integers(0, 255).filter(lambda b: b != line[at]))
    assert parse(line[:at] + bytes([byte]) + line[at + 1 :]) is None
