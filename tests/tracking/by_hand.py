"""A champion without a promotion, which takes seconds: for tests of what happens to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.finished import link
from tracking.registry.download import digests
from tracking.registry.registry import CHAMPION, Registry, Version


def champion(registry: Registry, study: Path) -> Version:
    """A study's winner, registered with all that a comparison asks for, and champion."""
    registry.create()
    experiment = registry.experiment("fdan-search", create=True)
    assert experiment is not None
    run = registry.create_run(experiment, "by hand", {})
    with tempfile.TemporaryDirectory(dir=study.parent) as temporary:
        folder = Path(temporary, "model")
        link(study / "winner", folder / "artifacts" / "model")
        tags = {**digests(study / "winner"), "study_id": "by hand", "state": "champion"}
        version = registry.add(folder, experiment, run, tags, "")
    registry.alias(CHAMPION, version.number)
    return version


def files(version: Version) -> Path:
    """Where its files lie."""
    return Path(version.source.removeprefix("file://"))
