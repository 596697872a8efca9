"""The chaos program's shorter form on PostgreSQL: beside the other one, since it takes a minute."""

from __future__ import annotations

import pytest

from benchmarks.chaos import postgres
from tests.chaos.conftest import Chaos

pytestmark = pytest.mark.long

REFUSED = postgres.refused()


@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(REFUSED), reason=REFUSED)
def test_a_study_survives_crashes_of_its_storage(chaos: Chaos) -> None:
    assert chaos({"postgres": 3})["faults"] == {"postgres": 3}
