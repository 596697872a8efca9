"""The model registry: versions of one registered model, which one is champion, and why.

MLflow's aliases keep no history, so every decision is written as tags of the versions that it is
about. Every method raises RegistryError, in one line, if the server is unavailable or refuses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from fdan.errors import FdanError
from fdan.machine.rights import why_unwritable
from tracking.backend import limits
from tracking.backend.client import connect, deleted_line, error_line, schema_line, shorten
from tracking.backend.moved import artifacts_uri
from tracking.uri import (
    absolute_uri,
    check_not_masked,
    check_registry,
    check_uri,
    mask_password,
    sqlite_file,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

CHAMPION: Final = "champion"  # alias of the version that is used
PREVIOUS: Final = "previous"  # alias of the one that was before it

_NO_ENDPOINT: Final = ("ENDPOINT_NOT_FOUND", "NOT_FOUND", "NOT_IMPLEMENTED")
"""MLflow's codes for a part of its API that a server does not have."""

_NOT_FOUND: Final = re.compile(r"\b404\b|NotFound")
"""The same, by a server whose answer is not MLflow's."""

_ABOUT: Final = (
    "Speech emotion models of fdan-search. The alias `champion` is the one to use; it moves only"
    " when a paired test on the same utterances says so. Each version's tags say why it is what it"
    " is."
)


class RegistryError(FdanError):
    """A registry that is unavailable, refuses, or does not hold what was requested."""

    error_code = ""  # MLflow's, if it gave one


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    number: str
    tags: Mapping[str, str]
    source: str  # URI of the folder that its files are in
    model_id: str | None
    run_id: str | None  # the study's run that it comes from

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    def is_model(self, tags: Mapping[str, object]) -> bool:
        """Whether this is the model of the study that the tags `study_id` and `sha256` name."""
        return all(self.tags.get(key) == tags[key] for key in ("study_id", "sha256"))


@dataclass(frozen=True)
class NewVersion:
    """A future version of a registered model."""

    folder: Path  # the packaged model (tracking/registry/package.py)
    experiment_id: str
    run_id: str
    tags: Mapping[str, object]  # `study_id` and `sha256` among them, which identify the model
    description: str


class Registry:
    """One registered model on one MLflow server or database."""

    def __init__(self, uri: str, name: str) -> None:
        check_uri(uri)
        check_not_masked(uri)
        check_registry(uri)
        if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
            words = "is no name for a model: use letters, digits, _ . -"
            raise RegistryError(f"--name '{name}' {words}")
        self.database = sqlite_file(uri)  # None for a server or another database
        if self.database is not None and not self.database.is_file():
            raise RegistryError(
                f"{self.database}: there is no such MLflow database; give --tracking-uri, or run a"
                " study"
            )
        self.uri = absolute_uri(uri)
        self.name = name
        self.client = cast("MlflowClient", _Client(uri))  # raises RegistryError, too

    def check(self, experiment: str) -> None:
        """Raises RegistryError if nothing can be registered here: the experiment is in the trash,
        or the server's API is that of MLflow 2, which knows no logged models."""
        found = self.client.get_experiment_by_name(experiment)
        number = "0" if found is None else str(found.experiment_id)
        if found is not None and found.lifecycle_stage == "deleted":
            raise RegistryError(deleted_line(experiment, number, self.uri))
        try:
            self.client.search_logged_models([number], max_results=1)
        except RegistryError as error:
            server = mask_password(self.uri)
            reason = str(error).removeprefix(server)
            if error.error_code not in _NO_ENDPOINT and not _NOT_FOUND.search(reason):
                raise
            raise RegistryError(
                f"{server} is too old to register a model: it is a server of MLflow 2, or as"
                " limited as one (DagsHub, Azure). It tracks runs; to promote, name a server or"
                " database of MLflow 3: python -m tracking promote STUDY --tracking-uri URI"
            ) from None

    def create(self) -> None:
        """Register the model without a version, unless it exists."""
        with ignore_error("RESOURCE_ALREADY_EXISTS"):
            self.client.create_registered_model(self.name, description=_ABOUT)

    def create_experiment(self, name: str) -> str:
        """The id of a new experiment, or of an existing one."""
        if (experiment := self.client.get_experiment_by_name(name)) is not None:
            return str(experiment.experiment_id)
        artifacts = None
        if self.database is not None:
            artifacts = artifacts_uri(self.database)
        return str(self.client.create_experiment(name, artifact_location=artifacts))

    def aliases(self) -> dict[str, str]:
        """{alias: version number}; empty if the model is not registered."""
        with ignore_error("RESOURCE_DOES_NOT_EXIST"):
            aliases = self.client.get_registered_model(self.name).aliases
            return {alias: str(number) for alias, number in aliases.items()}
        return {}

    def tags(self) -> dict[str, str]:
        """Tags of the registered model; empty if it is not registered."""
        with ignore_error("RESOURCE_DOES_NOT_EXIST"):
            return dict(self.client.get_registered_model(self.name).tags)
        return {}

    def version(self, number: str) -> ModelVersion | None:
        """The version, or None if it is gone."""
        with ignore_error("RESOURCE_DOES_NOT_EXIST"):
            return _version(self.client.get_model_version(self.name, number))
        return None

    def version_by_alias(self, alias: str) -> ModelVersion | None:
        """The version that the alias names now; None if it names none."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def versions(self) -> list[ModelVersion]:
        """The newest first."""
        versions = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(map(_version, versions), key=lambda version: -int(version.number))

    def add_version(self, new: NewVersion) -> ModelVersion:
        """Upload a model's folder and register it. Files that an earlier call which was killed has
        uploaded for the same model (by its tag `sha256`) are used again."""
        client = self.client
        tags = {limits.name(k): limits.value(v, limits.TAG) for k, v in new.tags.items()}
        uploaded = client.search_logged_models(
            [new.experiment_id], filter_string=f"tags.`sha256` = '{tags['sha256']}'"
        )
        used = {version.model_id for version in self.versions()}
        unused = [m for m in uploaded if m.name == self.name and m.model_id not in used]
        model = next(iter(unused), None) or client.create_logged_model(
            new.experiment_id, self.name, new.run_id, tags=tags, model_type="fdan"
        )
        client.log_model_artifacts(model.model_id, str(new.folder))
        client.finalize_logged_model(model.model_id, "READY")
        version = client.create_model_version(
            self.name,
            model.artifact_location,
            new.run_id,
            tags=tags,
            description=new.description,
            model_id=model.model_id,
        )
        return _version(version)

    def set_version_tags(self, number: str, tags: Mapping[str, object]) -> None:
        """Set tags of a version.

        Args:
            number: Number of the version.
            tags: Tags; their values become text.
        """
        for key, value in tags.items():
            text = limits.value(value, limits.TAG)
            self.client.set_model_version_tag(self.name, number, limits.name(key), text)


class _Client:
    """An MlflowClient whose errors become RegistryErrors."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        with as_registry_error(uri):
            self._client: MlflowClient = connect(uri)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._client, name)
        return as_registry_error(self._uri)(method)


@contextlib.contextmanager
def as_registry_error(uri: str) -> Iterator[None]:
    """Whatever goes wrong between here and the server at `uri` becomes a RegistryError in one line,
    without the URI's password."""
    try:
        yield
    except FdanError:
        raise
    except Exception as error:
        text, file = error_line(error, uri), sqlite_file(uri)
        cause = _CAUSE.search(text)
        reason = schema_line(text, uri) or (cause.group(0) if cause else shorten(text))
        if file is not None and file.exists() and _UNWRITABLE.search(text):
            reason = why_unwritable(file) or reason
        translated = RegistryError(f"{mask_password(uri)}: {reason}")
        translated.error_code = getattr(error, "error_code", "")
        raise translated from error


_UNWRITABLE: Final = re.compile(r"readonly database|unable to open database")

_CAUSE: Final = re.compile(
    r"Connection refused|Name or service not known|[Tt]imed out|could not connect[\w ]*"
    r"|database is locked|HTTP [45]\d\d[\w ]*|error code [45]\d\d"
)


@contextlib.contextmanager
def ignore_error(error_code: str) -> Iterator[None]:
    """Pass over MLflow's error of this code."""
    try:
        yield
    except RegistryError as error:
        if error.error_code != error_code:
            raise


def _version(version: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        str(version.name),
        str(version.version),
        dict(version.tags),
        str(version.source),
        version.model_id,
        version.run_id or None,
    )
