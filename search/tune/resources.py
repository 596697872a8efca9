"""What a trial occupies, as Ray is asked for it. Ray sends `placement_group` to each worker by its
module's name, so this file imports nothing that a worker does not need."""

from collections.abc import Mapping
from typing import Any

from ray.tune import PlacementGroupFactory

CPUS, GPUS, AVOID = "cpus", "gpus", "avoid"
"""Keys of a config for Ray Tune: its resources, and the ids of nodes excluded from the study."""

_NODE_ID = "ray.io/node-id"  # Ray's own label of each node


def placement_group(config: Mapping[str, Any]) -> PlacementGroupFactory:
    """The placement group of the trial with this config: one bundle, on no excluded node."""
    bundle = {"CPU": config[CPUS], "GPU": config[GPUS]}
    if not config[AVOID]:
        return PlacementGroupFactory([bundle])
    elsewhere = {_NODE_ID: f"!in({','.join(config[AVOID])})"}
    return PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])
