"""Metrics, parameters and tags packed into as few calls as MLflow's limits allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tracking import limits
from tracking.records import Record

_OVERHEAD = 60  # bytes of JSON around a value


@dataclass(frozen=True)
class Item:
    """One metric, parameter or tag of a record, as an MLflow entity."""

    record: Record
    kind: Literal["metric", "param", "tag"]
    entity: Any  # mlflow.entities.Metric, Param or RunTag

    def __str__(self) -> str:
        return f"{self.kind} {self.entity.key}"

    @property
    def size(self) -> int:
        """Bytes of JSON, at most: a character outside ASCII is escaped to six."""
        value = self.entity.value
        length = 24 if self.kind == "metric" else len(value) * (1 if value.isascii() else 6)
        return length + len(self.entity.key) + _OVERHEAD


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Split in order. A batch holds each parameter and each tag once: of a tag the latest value
    (as the server would), and a parameter's second value starts a new batch, so that a refusal
    of it is seen for what it is."""
    room = {
        "metric": limits.METRICS_PER_CALL,
        "param": limits.PARAMS_PER_CALL,
        "tag": limits.TAGS_PER_CALL,
    }
    batch: dict[tuple[str, Any], Item] = {}
    count = dict.fromkeys(room, 0)
    size = 0
    for item in items:
        # A metric may come twice; only its record tells one from the other.
        which = item.record.number if item.kind == "metric" else None
        key = (item.kind, (item.entity.key, which))
        earlier = batch.get(key)
        if earlier is not None and earlier.entity.value == item.entity.value:
            continue
        replaces = earlier is not None and item.kind == "tag"
        full = (
            count[item.kind] == room[item.kind]
            or len(batch) == limits.ENTITIES_PER_CALL
            or size + item.size > limits.BYTES_PER_CALL
            or (earlier is not None and item.kind == "param")
        )
        if batch and full and not replaces:
            yield list(batch.values())
            batch, count, size = {}, dict.fromkeys(room, 0), 0
        batch[key] = item
        count[item.kind] += not replaces
        size += item.size
    if batch:
        yield list(batch.values())
