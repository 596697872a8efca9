"""What a trial asks of Ray: its resources, on a node that may hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

TURNS = "turns"
"""Key of a config for Ray Tune, which takes trials that train together for one: their Turns."""

CPUS, GPUS, AVOID = "cpus", "gpus", "avoid"
"""Further keys: its resources, and the ids of nodes that take no part."""

_NODE_ID = "ray.io/node-id"
"""Ray's own label of each node."""


def of(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """The placement of the trial with this config."""
    bundle = {"CPU": config[CPUS], "GPU": config[GPUS]}
    if not config[AVOID]:
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {_NODE_ID: f"!in({','.join(config[AVOID])})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])
