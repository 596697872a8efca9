"""Metrics, parameters and tags packed into as few calls as MLflow's limits allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from tracking.backend import limits
from tracking.record import Record

_OVERHEAD = 60  # bytes of JSON around a value

Kind = Literal["metric", "param", "tag"]


class Item(NamedTuple):
    """One metric, parameter or tag of a record."""

    record: Record
    """Record that gives the item its time."""
    kind: Kind
    key: str
    value: float | str
    """A number for a metric, else text."""
    step: int = 0
    """A metric's epoch."""

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"

    @property
    def size(self) -> int:
        """Bytes of JSON, at most: a character outside ASCII is escaped to six."""
        if isinstance(self.value, str):
            length = len(self.value) * (1 if self.value.isascii() else 6)
        else:
            length = 24
        return length + len(self.key) + _OVERHEAD


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Split items in order. A batch holds each parameter and each tag once: of a tag the latest
    value, as the server would; a parameter's second value starts a new batch, so that the server
    rejects that value alone."""
    room = {
        "metric": limits.METRICS_PER_CALL,
        "param": limits.PARAMS_PER_CALL,
        "tag": limits.TAGS_PER_CALL,
    }
    batch: dict[tuple[str, str, int | None], Item] = {}
    count = dict.fromkeys(room, 0)
    size = 0
    for item in items:
        # A metric may come twice; only its record distinguishes the two.
        key = (item.kind, item.key, item.record.number if item.kind == "metric" else None)
        earlier = batch.get(key)
        if earlier is not None and earlier.value == item.value:
            continue
        replaces = earlier is not None and item.kind == "tag"
        own = item.size
        full = (
            count[item.kind] == room[item.kind]
            or len(batch) == limits.ENTITIES_PER_CALL
            or size + own > limits.BYTES_PER_CALL
            or (earlier is not None and item.kind == "param")
        )
        if batch and full and not replaces:
            yield list(batch.values())
            batch, count, size = {}, dict.fromkeys(room, 0), 0
        batch[key] = item
        count[item.kind] += not replaces
        size += own
    if batch:
        yield list(batch.values())
