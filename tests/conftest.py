"""The order of the tests' files."""

from __future__ import annotations

from typing import Final

import pytest

_LONGEST: Final = ("cluster/", "commands/", "chaos/", "tracking/test_promot")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that none is left over for one process alone; and the
    two that want all cores not side by side."""

    def rank(item: pytest.Item) -> int:
        path = str(item.path)
        return next((n for n, part in enumerate(_LONGEST) if f"tests/{part}" in path), 99)

    items.sort(key=rank)
