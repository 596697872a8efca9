"""A model that MLflow holds, as a folder here: only its tensors, their description and its answers.

Nothing of what was downloaded is executed or unpickled: the code that lies in a registered model is
left where it is. What is not such a model, or tries to be more, is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fdan.errors import FdanError
from fdan.inference.model_folder import FACTS, TENSORS
from fdan.inference.model_source import SERVED
from tracking.registry.pickle_scan import SUFFIXES, pickled
from tracking.registry.registry import Registry, RegistryError, Version, asking
from tracking.result import PREDICTIONS, sha256
from tracking.uri import TRACKING_URI_VARIABLE, environment_uri, mask_password

_INSIDE: Final = ("artifacts/model", "")
"""Where the folder may lie: in a registered model, or by itself among a run's artifacts."""

DIGESTS: Final = {
    "sha256": TENSORS,
    "sha256.model.json": FACTS,
    "sha256.test.csv": PREDICTIONS,
}
"""A version's tags, and the file of the model's folder whose sha256 each holds. All three decide
what a model answers, or what the next one is compared with."""

_MOST: Final = 5000  # files; a registered model has about a hundred

_MODEL: Final = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_RUN: Final = re.compile(r"runs:/(?P<run>[0-9a-f]{32})(/(?P<path>.*))?")


class ArtifactError(FdanError):
    """A model that MLflow holds and that is not used: hostile, damaged, or none of ours."""


def model_folder(uri: str) -> Path:
    """The local folder of `models:/fdan@champion`, `models:/fdan/3` or `runs:/RUN_ID/PATH`, for
    fdan.inference.model_folder.read_model. Downloaded once, into ~/.cache/fdan-search.

    MLFLOW_TRACKING_URI names the server, else it is ./runs/mlflow.db. Raises RegistryError where
    the server is away or holds no such model, ArtifactError for what is not to be used.
    """
    where = tracking_uri()
    if found := _MODEL.fullmatch(uri):
        registry = Registry(where, found["name"])
        alias, number = found["alias"], found["version"]
        version = registry.aliased(alias) if alias else registry.version(number)
        if version is None:
            raise RegistryError(f"{uri}: {mask_password(where)} has no such model")
        return fetch(registry, version)
    if found := _RUN.fullmatch(uri):
        registry = Registry(where, "fdan")
        with asking(where):
            root = str(registry.client.get_run(found["run"]).info.artifact_uri)
        path = (found["path"] or "").strip("/")
        return _fetch(f"{root}/{path}" if path else root, where, uri, {}, {})
    raise RegistryError(
        f"'{uri}' names no model: give models:/NAME@ALIAS, models:/NAME/VERSION or"
        " runs:/RUN_ID/PATH"
    )


def fetch(registry: Registry, version: Version) -> Path:
    """The local folder of a registered version. Raises as `model_folder` does."""
    what = f"models:/{version}"
    if missing := [tag for tag in DIGESTS if tag not in version.tags]:
        raise ArtifactError(
            f"{what} is not used: it has no tag {missing[0]}, so its {DIGESTS[missing[0]]} cannot"
            " be checked; it was not promoted by this version of fdan-search. If you trust its"
            " files, set that tag to the file's sha256 in MLflow"
        )
    wanted = {file: version.tags[tag] for tag, file in DIGESTS.items()}
    served = {"name": version.name, "version": version.number}
    return _fetch(version.source, registry.uri, what, wanted, served)


def digests(folder: Path) -> dict[str, str]:
    """The tags DIGESTS of the model in a folder. Raises OSError."""
    return {tag: sha256(folder / file) for tag, file in DIGESTS.items()}


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database in ./runs; RegistryError where there is none."""
    if not (os.environ.get(TRACKING_URI_VARIABLE) or Path("runs/mlflow.db").is_file()):
        raise RegistryError(
            f"no MLflow: there is no runs/mlflow.db here; set {TRACKING_URI_VARIABLE} to a server"
            " or a database"
        )
    return environment_uri()


def files(source: str, tracking_uri: str) -> list[str]:
    """Paths of all files below an artifact's place, none of which climbs out of it. Raises
    ArtifactError, and whatever the store raises."""
    repository = _repository(source, tracking_uri)
    return list(_listed(repository, ""))


def download(source: str, tracking_uri: str, path: str, folder: Path) -> Path:
    """One file below an artifact's place, copied into `folder` under its own path. Raises
    ArtifactError for a file that is none, or a link; and whatever the store raises."""
    repository = _repository(source, tracking_uri)
    _check_local(repository, path)
    folder.mkdir(parents=True, exist_ok=True)
    found = Path(repository.download_artifacts(path, dst_path=str(folder)))
    if found.is_symlink() or not found.is_file():
        raise ArtifactError(f"{path} is no plain file")
    return found


def _fetch(
    source: str,
    tracking_uri: str,
    what: str,
    wanted: Mapping[str, str],
    served: Mapping[str, str],
) -> Path:
    """wanted: {file: its sha256}; empty where nothing is known, and then nothing is taken from the
    cache. served: noted in the folder."""
    key = hashlib.sha256(f"{tracking_uri}\n{what}\n{source}".encode()).hexdigest()[:16]
    kept = _cache() / key
    note = json.dumps(served) + "\n"
    noted = {SERVED: hashlib.sha256(note.encode()).hexdigest()} if served else {}
    if wanted and not _other(kept, {**wanted, **noted}):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=kept.parent) as temporary:
        try:
            with asking(tracking_uri):
                new = _take(source, tracking_uri, Path(temporary))
            _check(new, wanted)
        except ArtifactError as error:
            raise ArtifactError(f"{what} is not used: {error}") from None
        if served:
            (new / SERVED).write_text(note, encoding="utf-8")
        old = Path(temporary, "old")
        if kept.exists():
            kept.replace(old)
        new.replace(kept)
        shutil.rmtree(old, ignore_errors=True)
    return kept


def _take(source: str, tracking_uri: str, temporary: Path) -> Path:
    """Download what a model's folder is made of."""
    listed = files(source, tracking_uri)
    for path in listed:
        if PurePosixPath(path).suffix.lower() in SUFFIXES:
            raise ArtifactError(f"{path} is a pickle by its name, which would run code")
    inside = next((place for place in _INSIDE if _joined(place, FACTS) in listed), None)
    if inside is None:
        raise ArtifactError(f"it holds no {_INSIDE[0]}/{FACTS}: it is no model of fdan-search")
    new = temporary / "model"
    new.mkdir()
    for name in (FACTS, TENSORS, PREDICTIONS):
        path = _joined(inside, name)
        if path in listed:
            download(source, tracking_uri, path, temporary / "files").replace(new / name)
    return new


def _check(folder: Path, wanted: Mapping[str, str]) -> None:
    import safetensors

    for file in sorted(folder.iterdir()):
        if why := pickled(file):
            raise ArtifactError(f"{file.name} {why}")
    tensors = folder / TENSORS
    if not tensors.is_file():
        raise ArtifactError(f"it holds no {TENSORS}")
    try:
        with safetensors.safe_open(tensors, "numpy"):  # the header, and that nothing is missing
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{TENSORS} is damaged ({' '.join(str(error).split())[:120]})"
        ) from None
    if other := _other(folder, wanted):
        if not (folder / other).is_file():
            raise ArtifactError(f"it holds no {other}")
        raise ArtifactError(f"{other} is not the file that was registered (another sha256)")


def _other(folder: Path, wanted: Mapping[str, str]) -> str | None:
    """The first file that is missing, or is another than the one wanted."""
    for name, digest in wanted.items():
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            return name
    return None


def _listed(repository: Any, folder: str) -> Iterator[str]:
    waiting, count = [folder], 0
    while waiting:
        for entry in repository.list_artifacts(waiting.pop() or None):
            path = str(entry.path)
            plain = PurePosixPath(path)
            if plain.is_absolute() or ".." in plain.parts or "\\" in path or "\0" in path:
                raise ArtifactError(f"'{path[:100]}' climbs out of the model's folder")
            _check_local(repository, path)
            count += 1
            if count > _MOST:
                raise ArtifactError(f"it holds more than {_MOST} files")
            if entry.is_dir:
                waiting.append(path)
            else:
                yield path


def _check_local(repository: Any, path: str) -> None:
    """A link in a store on this machine would be followed while it is copied."""
    root = getattr(repository, "artifact_dir", None)
    if root is not None and Path(root, path).resolve() != Path(root).resolve() / path:
        raise ArtifactError(f"'{path[:100]}' is a link")


def _repository(source: str, tracking_uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(source, tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fdan-search" / "models"
