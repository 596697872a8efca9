"""What one trial occupies of a machine or a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus: int = 1
    gpus: float = 0.0
    """May be a fraction: trials then share a GPU."""

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus != 1)}"
        return f"{cpus}, {self.gpus:g} GPU" if self.gpus else cpus
