"""A study's winner as a version of the registered model, read back before anybody relies on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tracking.promotion import history as audit
from tracking.promotion.gates import Challenger
from tracking.registry.download import download, files
from tracking.registry.model_card import card
from tracking.registry.registry import DESCRIPTION, Registry, RegistryError, Version
from tracking.result import sha256
from tracking.uri import mask_password

# MLflow's own note of what was loaded; it writes it where it reads.
_NOTED: Final = "registered_model_meta"

Say = Callable[[str], None]


def register(
    registry: Registry,
    of: Challenger,
    experiment: str,
    run_id: str,
    tags: dict[str, Any],
    say: Say,
) -> Version:
    """The winner as a version whose files were read back: a new one, or the one that it is already.

    The claim must be held: candidates that are there are then nobody's, and are removed. Raises
    RegistryError where the server does not give back what it was given.
    """
    texts = {key: str(value) for key, value in tags.items()}
    for version in registry.versions():
        if audit.same(version, texts) and not _differs(registry, of.built, version):
            say(f"{version} is this model already")
            registry.tag(version.number, tags)
            return version
        if version.tags.get("state") == audit.CANDIDATE:
            say(f"{version} was left by a promotion that was broken off: removed")
            registry.delete(version.number)
    size = sum(file.stat().st_size for file in of.built.rglob("*") if file.is_file())
    say(f"registering the model ({size / 1e6:.0f} MB)")
    facts = of.model.facts
    text = card(of.result, facts, registry.name, mask_password(registry.uri), DESCRIPTION)
    version = registry.add(of.built, experiment, run_id, tags, text)
    if wrong := _differs(registry, of.built, version):
        registry.delete(version.number)
        raise RegistryError(
            f"{mask_password(registry.uri)} does not give back what it was given: {wrong}"
        )
    return version


def _differs(registry: Registry, built: Path, version: Version) -> str:
    """What of a version's files is not as it should be; empty where nothing is."""
    wanted = {f.relative_to(built).as_posix(): f for f in built.rglob("*") if f.is_file()}
    try:
        there = {path for path in files(version.source, registry.uri) if path != _NOTED}
        if there != wanted.keys():
            return f"{sorted(there ^ wanted.keys())[0]} is only in one of the two"
        for path, file in wanted.items():
            if path == "MLmodel":  # it says when it was made
                continue
            with tempfile.TemporaryDirectory(prefix="fdan-read-back-") as temporary:
                found = download(version.source, registry.uri, path, Path(temporary))
                if sha256(found) != sha256(file):
                    return f"{path} has another sha256"
    except Exception as error:
        return f"it cannot be read ({' '.join(str(error).split())[:200]})"
    return ""
