"""One file writes Optuna's storage."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
WRITES = re.compile(
    r"create_study\(|enqueue_trial\(|\.set_user_attr\(|\.tell\(|\.ask\(\)|\.add_trial\("
    r"|set_trial_state_values|set_study_user_attr|\.set_system_attr\("
)
IN_MEMORY = {
    "search/planning/estimate.py": "draws settings from a sampler, before there is a study",
    "search/results/importance.py": "copies a study's trials, to weigh their settings",
}


def test_optunas_storage_is_written_in_one_file() -> None:
    found = set()
    for package in ("search", "tracking", "fdan"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "optuna" in text and WRITES.search(re.sub(r"(?<!\.)create_study\(\n?", "", text)):
                found.add(str(path.relative_to(ROOT)))
    assert found - IN_MEMORY.keys() == {"search/study/writer.py"}
