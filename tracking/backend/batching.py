"""Metrics, parameters and tags packed into as few calls as MLflow's limits allow."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from tracking.backend import limits
from tracking.record import Record

Kind = Literal["metric", "param", "tag"]

_OVERHEAD: Final = 60  # bytes of JSON around a value


class Item(NamedTuple):
    """One metric, parameter or tag of a record."""

    record: Record  # which gives the item its time
    kind: Kind
    key: str
    value: float | str  # a metric's number, which is text if it is not finite; else text
    step: int = 0  # a metric's epoch

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"

    @property
    def size(self) -> int:
        """Bytes of JSON, at most: a character outside ASCII is escaped to six."""
        length = 24
        if isinstance(self.value, str):
            length = len(self.value) * (1 if self.value.isascii() else 6)
        return length + len(self.key) + _OVERHEAD


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Split items in order. A batch holds each parameter and each tag once: of a tag the latest
    value, as the server would; a parameter's second value starts a new batch, so that the server
    rejects that value alone."""
    batch: dict[tuple[str, str, int | None], Item] = {}
    count: Counter[Kind] = Counter()
    size = 0
    for item in items:
        # A metric may come twice; only its record distinguishes the two.
        key = (item.kind, item.key, item.record.number if item.kind == "metric" else None)
        earlier = batch.get(key)
        if earlier is not None and earlier.value == item.value:
            continue
        if earlier is None or item.kind != "tag":
            full = (
                count[item.kind] == limits.PER_CALL[item.kind]
                or len(batch) == limits.ENTITIES_PER_CALL
                or size + item.size > limits.BYTES_PER_CALL
            )
            if batch and (full or earlier is not None):
                yield list(batch.values())
                batch, size = {}, 0
                count.clear()
            count[item.kind] += 1
        batch[key] = item
        size += item.size
    if batch:
        yield list(batch.values())
