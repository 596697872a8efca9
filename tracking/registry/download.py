"""A model that MLflow holds, as a local folder: only its tensors, their description and what it
predicted.

Nothing of what was downloaded is executed or unpickled: the code in a registered model is left
where it is. What is not such a model, or is more, is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from fdan.errors import FdanError
from fdan.files import first_line, sha256_file
from fdan.inference.model_folder import TENSORS
from fdan.inference.model_source import FACTS, SERVED
from tracking.registry.pickle_scan import SUFFIXES, pickle_reason
from tracking.registry.registry import ModelVersion, Registry, RegistryError, as_registry_error
from tracking.result import PREDICTIONS
from tracking.uri import TRACKING_URI_VARIABLE, environment_uri, mask_password

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_FOLDERS: Final = ("artifacts/model/", "")
"""Places of the files: in a registered model, or by themselves among a run's artifacts."""

DIGESTS: Final = {"sha256": TENSORS, "sha256.model.json": FACTS, "sha256.test.csv": PREDICTIONS}
"""A version's tags, and the file of the model's folder whose sha256 each holds. All three decide
what a model answers, or what the next one is compared with."""

_MAX_FILES: Final = 5000  # a registered model has about fifty

_MODEL: Final = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_RUN: Final = re.compile(r"runs:/(?P<run>[0-9a-f]{32})(/(?P<path>.*))?")


class ArtifactError(FdanError):
    """A model that MLflow holds and that is not used: hostile, damaged, or none of ours."""


def model_folder(uri: str) -> Path:
    """The local folder, for read_model, of a model that MLflow holds: `models:/fdan@champion`,
    `models:/fdan/3` or `runs:/RUN_ID/PATH`. It is downloaded once, into ~/.cache/fdan-search.
    MLFLOW_TRACKING_URI names the server, else it is ./runs/mlflow.db.

    Raises RegistryError if the server is unavailable or holds no such model, and ArtifactError if
    the model is not to be used."""
    server = tracking_uri()
    if match := _MODEL.fullmatch(uri):
        registry = Registry(server, match["name"])
        alias, number = match["alias"], match["version"]
        version = registry.version_by_alias(alias) if alias else registry.version(number)
        if version is None:
            raise RegistryError(f"{uri}: {mask_password(server)} has no such model")
        return download_version(registry, version)
    if match := _RUN.fullmatch(uri):
        registry = Registry(server, "fdan")
        root = registry.client.get_run(match["run"]).info.artifact_uri
        path = (match["path"] or "").strip("/")
        return _local_folder(ArtifactFolder(f"{root}/{path}".rstrip("/"), server), uri, {}, {})
    raise RegistryError(
        f"'{uri}' names no model: give models:/NAME@ALIAS, models:/NAME/VERSION or"
        " runs:/RUN_ID/PATH"
    )


def download_version(registry: Registry, version: ModelVersion) -> Path:
    """The local folder of a registered version. Raises as `model_folder` does.

    Args:
        registry: Registry that holds it.
        version: Version to download, once.
    """
    uri = f"models:/{version}"
    if missing := [tag for tag in DIGESTS if tag not in version.tags]:
        raise ArtifactError(
            f"{uri} is not used: it has no tag {missing[0]}, so its {DIGESTS[missing[0]]} cannot"
            " be checked; it was not promoted by this version of fdan-search. If you trust its"
            " files, set that tag to the file's sha256 in MLflow"
        )
    digests = {file: version.tags[tag] for tag, file in DIGESTS.items()}
    served = {"name": version.name, "version": version.number}
    return _local_folder(ArtifactFolder(version.source, registry.uri), uri, digests, served)


def file_digests(folder: Path) -> dict[str, str]:
    """The tags DIGESTS of the model in a folder. Raises OSError."""
    return {tag: sha256_file(folder / file) for tag, file in DIGESTS.items()}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database in ./runs. Raises RegistryError if there is none."""
    if not (os.environ.get(TRACKING_URI_VARIABLE) or Path("runs/mlflow.db").is_file()):
        raise RegistryError(
            f"no MLflow: there is no runs/mlflow.db here; set {TRACKING_URI_VARIABLE} to a server"
            " or a database"
        )
    return environment_uri()


@dataclass(frozen=True)
class ArtifactFolder:
    """A folder of files that MLflow holds. Its methods raise ArtifactError for what is hostile;
    whatever the store itself raises comes through."""

    source: str
    tracking_uri: str

    @cached_property
    def repository(self) -> ArtifactRepository:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(
            self.source, tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri
        )

    def files(self) -> Iterator[str]:
        """Paths of all files, relative to the folder; none leads out of it."""
        folders, count = [""], 0
        root = getattr(self.repository, "artifact_dir", None)
        while folders:
            for entry in self.repository.list_artifacts(folders.pop() or None):
                path = str(entry.path)
                parts = PurePosixPath(path)
                if parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
                    raise ArtifactError(f"'{path[:100]}' climbs out of the model's folder")
                # A link in a store on this machine would be followed while it is copied.
                if root is not None and Path(root, path).resolve() != Path(root).resolve() / path:
                    raise ArtifactError(f"'{path[:100]}' is a link")
                count += 1
                if count > _MAX_FILES:
                    raise ArtifactError(f"it holds more than {_MAX_FILES} files")
                if entry.is_dir:
                    folders.append(path)
                else:
                    yield path

    def download(self, path: str, folder: Path) -> Path:
        """Copy one file.

        Args:
            path: One of `files`.
            folder: Local folder that it is copied into, under the same path.
        """
        folder.mkdir(parents=True, exist_ok=True)
        download: Callable[..., str] = self.repository.download_artifacts
        file = Path(download(path, dst_path=str(folder)))
        if file.is_symlink() or not file.is_file():
            raise ArtifactError(f"{path} is no plain file")
        return file


def _local_folder(
    artifacts: ArtifactFolder, uri: str, digests: Mapping[str, str], served: Mapping[str, str]
) -> Path:
    """uri: what the user calls it. digests: {file: its sha256}; empty if they are not known, and
    then the cache is not used. served: written into the folder."""
    key = hashlib.sha256(f"{artifacts.tracking_uri}\n{uri}\n{artifacts.source}".encode())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cached = Path(home, "fdan-search", "models", key.hexdigest()[:16])
    note = json.dumps(served) + "\n"
    noted = {SERVED: hashlib.sha256(note.encode()).hexdigest()} if served else {}
    if digests and not _different_file(cached, {**digests, **noted}):
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cached.parent) as temporary:
        try:
            with as_registry_error(artifacts.tracking_uri):
                new = _download_model(artifacts, Path(temporary))
            _check(new, digests)
        except ArtifactError as error:
            raise ArtifactError(f"{uri} is not used: {error}") from None
        if served:
            (new / SERVED).write_text(note, encoding="utf-8")
        if cached.exists():
            cached.replace(Path(temporary, "old"))
        new.replace(cached)
    return cached


def _download_model(artifacts: ArtifactFolder, temporary: Path) -> Path:
    """Download what a model's folder consists of."""
    paths = list(artifacts.files())
    for path in paths:
        if PurePosixPath(path).suffix.lower() in SUFFIXES:
            raise ArtifactError(f"{path} is a pickle by its name, which would run code")
    inside = next((folder for folder in _FOLDERS if folder + FACTS in paths), None)
    if inside is None:
        raise ArtifactError(f"it holds no {_FOLDERS[0]}{FACTS}: it is no model of fdan-search")
    new = temporary / "model"
    new.mkdir()
    for name in (FACTS, TENSORS, PREDICTIONS):
        if inside + name in paths:
            artifacts.download(inside + name, temporary / "files").replace(new / name)
    return new


def _check(folder: Path, digests: Mapping[str, str]) -> None:
    import safetensors

    for file in sorted(folder.iterdir()):
        if reason := pickle_reason(file):
            raise ArtifactError(f"{file.name} {reason}")
    for name in (TENSORS, *digests):
        if not (folder / name).is_file():
            raise ArtifactError(f"it holds no {name}")
    try:
        with safetensors.safe_open(folder / TENSORS, "numpy"):  # the header, and the length
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"{TENSORS} is damaged ({first_line(error, 120)})") from None
    if name := _different_file(folder, digests):
        raise ArtifactError(f"{name} is not the file that was registered (another sha256)")


def _different_file(folder: Path, digests: Mapping[str, str]) -> str:
    """The first file that is missing, or has another sha256; empty if there is none."""
    for name, digest in digests.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            return name
    return ""
