"""A champion without a promotion, which takes seconds: for tests of what happens to it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.finished import link
from tracking.registry.download import file_digests
from tracking.registry.registry import CHAMPION, ModelVersion, NewVersion, Registry


def champion(registry: Registry, study: Path) -> ModelVersion:
    """A study's winner, registered with all that a comparison asks for, and champion."""
    registry.create()
    with tempfile.TemporaryDirectory(dir=study.parent) as temporary:
        folder = Path(temporary, "model")
        link(study / "winner", folder / "artifacts" / "model")
        tags = {**file_digests(study / "winner"), "study_id": "by hand", "state": "champion"}
        version = registry.add_version(NewVersion(folder, *run(registry), tags, ""))
    name_alias(registry, CHAMPION, version.number)
    return version


def run(registry: Registry) -> tuple[str, str]:
    """An experiment and a run in it."""
    experiment = registry.create_experiment("fdan-search")
    return experiment, registry.client.create_run(experiment, run_name="by hand").info.run_id


def name_alias(registry: Registry, alias: str, number: str) -> None:
    registry.client.set_registered_model_alias(registry.name, alias, number)


def files(version: ModelVersion) -> Path:
    """Where its files lie."""
    return Path(version.source.removeprefix("file://"))
