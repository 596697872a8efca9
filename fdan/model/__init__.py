"""The network of the paper, Eq. 1-9: `from fdan.model import Network, lmmd`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fdan.model.local_mmd import lmmd
    from fdan.model.network import Network

__all__ = ["Network", "lmmd"]


def __getattr__(name: str) -> object:
    # Lazily: torch takes seconds to import, and what reads a configuration does without it.
    if name == "Network":
        from fdan.model.network import Network

        return Network
    if name == "lmmd":
        from fdan.model.local_mmd import lmmd

        return lmmd
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
