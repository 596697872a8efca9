"""The order of the tests' files."""

from __future__ import annotations

from typing import Final

import pytest

_ORDER: Final = ("cluster/", "fdan/", "tracking/", "commands/", "chaos/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's machines want all cores for ten minutes: beside them go the files that start
    little themselves. Then those that take minutes, so that none is left over for one process
    alone."""

    def rank(item: pytest.Item) -> int:
        path = str(item.path)
        return next((n for n, part in enumerate(_ORDER) if f"tests/{part}" in path), 99)

    items.sort(key=rank)
