"""What one trial occupies, as it is asked of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray import tune

CPUS, GPUS, AVOID = "cpus", "gpus", "avoid"
"""Keys of a config for Ray Tune: its resources, and the ids of nodes excluded from the study."""

_NODE_ID = "ray.io/node-id"
"""Ray's own label of each node."""


def placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """The placement group of the trial with this config: one bundle, on no excluded node."""
    from ray import tune  # lazy: a command line is read without Ray

    bundle = {"CPU": config[CPUS], "GPU": config[GPUS]}
    if not config[AVOID]:
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {_NODE_ID: f"!in({','.join(config[AVOID])})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])
