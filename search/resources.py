"""What one trial occupies of a machine or a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus: int = 1
    gpus: float = 0.0
    """May be a fraction: trials then share a GPU."""
