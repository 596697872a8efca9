"""A study's winner as a version of the registered model, read back before anybody relies on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fdan.files import sha256_file
from tracking.registry.download import ArtifactFolder
from tracking.registry.registry import CANDIDATE, ModelVersion, NewVersion, Registry, RegistryError
from tracking.uri import mask_password

_MLFLOWS_NOTE: Final = "registered_model_meta"
"""MLflow writes down what it loaded, in the folder that it loads from."""


def register(registry: Registry, new: NewVersion, log: Callable[[str], None]) -> ModelVersion:
    """Register a model and read its files back. If it is a version already, that one is returned.

    Args:
        registry: Registry, its promotion lock held: other candidates are nobody's, and deleted.
        new: The model.
        log: Function that is given each step, a line each.

    Raises:
        RegistryError: The server does not return what it was given.
    """
    for version in registry.versions():
        if version.is_model(new.tags) and not _difference(registry, new.folder, version):
            log(f"{version} is this model already")
            registry.set_version_tags(version.number, new.tags)
            return version
        if version.tags.get("state") == CANDIDATE:
            log(f"{version} was left by a promotion that was killed: deleted")
            registry.client.delete_model_version(registry.name, version.number)
    size = sum(file.stat().st_size for file in new.folder.rglob("*") if file.is_file())
    log(f"registering the model ({size / 1e6:.0f} MB)")
    version = registry.add_version(new)
    if difference := _difference(registry, new.folder, version):
        registry.client.delete_model_version(registry.name, version.number)
        # Files of another release may be left in it: the next try uploads anew.
        if version.model_id is not None:
            registry.client.delete_logged_model(version.model_id)
        raise RegistryError(
            f"{mask_password(registry.uri)} does not return what it was given: {difference}"
        )
    return version


def _difference(registry: Registry, folder: Path, version: ModelVersion) -> str:
    """The first difference between a folder and a version's files; empty if there is none."""
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    artifacts = ArtifactFolder(version.source, registry.uri)
    try:
        stored = set(artifacts.files()) - {_MLFLOWS_NOTE}
        if stored != files.keys():
            return f"{sorted(stored ^ files.keys())[0]} is only in one of the two"
        for path, file in files.items():
            if path == "MLmodel":  # it says when it was made
                continue
            with tempfile.TemporaryDirectory(prefix="fdan-read-back-") as temporary:
                copy = artifacts.download(path, Path(temporary))
                if sha256_file(copy) != sha256_file(file):
                    return f"{path} has another sha256"
    except Exception as error:
        return f"it cannot be read ({' '.join(str(error).split())[:200]})"
    return ""
