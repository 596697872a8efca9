"""Why a version is what it is: the tags that it carries through its life.

`state` is candidate (registered, not yet chosen), champion, replaced or rolled back; `verdict` says
why in words; `history` is all of it, a line an event, the newest last.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tracking.promotion.gates import Challenger
from tracking.registry.download import digests
from tracking.registry.inference_cost import multiply_adds
from tracking.registry.registry import Registry, Version

CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
REPLACED: Final = "replaced"
ROLLED_BACK: Final = "rolled back"

_LONGEST: Final = 5000


def described(of: Challenger) -> dict[str, Any]:
    """What the version of a study's winner says of itself, whatever becomes of it."""
    result, facts, test = of.result, of.model.facts, of.result.test
    assert test is not None
    interval = test["interval"]
    return {
        "study": result.study,
        "study_id": result.study_id,
        "trial": facts["trial"],
        "confirm_run": facts["confirm_run"],
        "seed": of.model.run.training.seed,
        "task": result.task,
        "data": facts["data"],
        "protocol": facts["split"]["protocol"],
        **digests(of.folder),
        "test.uar": f"{test['uar']:.4f}",
        "test.uar.interval": f"{interval['low']:.4f} to {interval['high']:.4f} ({_over(interval)})",
        "test.war": f"{test['war']:.4f}",
        "test.wf1": f"{test['wf1']:.4f}",
        "test.samples": test["samples"],
        "test.scored": test["scored"],
        "multiply_adds": multiply_adds(of.model),
        "git": result.git,
        **{f"version.{name}": value for name, value in result.versions.items()},
    }


def event(words: str) -> str:
    """A line of a history: when, by whom, what."""
    return f"{now()} {by()}: {' '.join(words.split())}"


def note(registry: Registry, version: Version, words: str, **tags: Any) -> None:
    """Write an event into a version's history, with other tags."""
    known = registry.version(version.number)
    history = (known.tags if known else version.tags).get("history", "")
    line = event(words)
    registry.tag(version.number, {**tags, "history": f"{history}\n{line}".strip()[-_LONGEST:]})


def same(version: Version, tags: Mapping[str, Any]) -> bool:
    """Whether a version is this very model of this very study."""
    return all(version.tags.get(name) == tags[name] for name in ("study_id", "sha256"))


def by() -> str:
    """Who does this, and where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _over(interval: Mapping[str, Any]) -> str:
    return f"{interval['level']:.0%}, {interval['groups']} {interval['by']}s"
