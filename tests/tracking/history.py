"""What a Tracker has recorded of a trial."""

from __future__ import annotations

from tracking.tracker import Tracker


def history(tracker: Tracker, number: int) -> list[tuple[int, dict[str, float]]]:
    """(epoch, metrics) of all recorded epochs, in order; read from the disk."""
    epochs: dict[int, dict[str, float]] = {}
    for record in tracker._spool.records():
        if record.kind == "metrics" and record.run == str(number):
            values = {key: float(value) for key, value in record.data["values"].items()}
            epochs.setdefault(record.data["step"], {}).update(values)
    return sorted(epochs.items())
