"""Where this project's code lies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PROJECT_ROOT: Final = Path(__file__).resolve().parents[1]
"""The folder that holds fdan, search and tracking: a checkout, or site-packages."""
