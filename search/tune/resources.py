"""What one trial occupies of a machine or a cluster, and how it is asked of Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray import tune

TURNS = "turns"
"""Key of a config for Ray Tune, which takes trials that train together for one: their Turns."""

CPUS, GPUS, AVOID = "cpus", "gpus", "avoid"
"""Further keys: its resources, and the ids of nodes that are excluded from the study."""

_NODE_ID = "ray.io/node-id"
"""Ray's own label of each node."""


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus: int = 1
    gpus: float = 0.0
    """May be a fraction: trials then share a GPU."""

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus != 1)}"
        return f"{cpus}, {self.gpus:g} GPU" if self.gpus else cpus


def placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """The placement group of the trial with this config: one bundle, on no excluded node."""
    from ray import tune  # lazy: a command line is read without Ray

    bundle = {"CPU": config[CPUS], "GPU": config[GPUS]}
    if not config[AVOID]:
        return tune.PlacementGroupFactory([bundle])
    elsewhere = {_NODE_ID: f"!in({','.join(config[AVOID])})"}
    return tune.PlacementGroupFactory([bundle], bundle_label_selector=[elsewhere])
