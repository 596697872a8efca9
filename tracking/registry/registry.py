"""The model registry: versions of one registered model, which one is champion, and why.

MLflow's aliases keep no history, so every decision is written as tags of the versions that it is
about. Every method raises RegistryError, in one line, where the server is unavailable or refuses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fdan.errors import FdanError
from tracking.backend import limits
from tracking.backend.client import connect
from tracking.tags import tag_filter
from tracking.uri import check_uri, is_masked, mask_password, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
"""Aliases: the version that is used, and the one that was before it."""

CANDIDATE: Final = "candidate"
"""Value of the tag `state` of a version that is registered and not yet chosen."""

DESCRIPTION: Final = 5000
"""Characters that MLflow's column for a version's description has."""

_ABOUT: Final = (
    "Speech emotion models of fdan-search. The alias `champion` is the one to use; it moves only"
    " when a paired test on the same utterances says so. Each version's tags say why it is what it"
    " is."
)


class RegistryError(FdanError):
    """A registry that is unavailable, refuses, or does not hold what was requested."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    number: str
    """From "1" on."""
    tags: Mapping[str, str]
    source: str
    """URI of the folder that its files are in."""
    model_id: str | None
    run_id: str | None
    """The study's run that it comes from."""

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"

    def is_model(self, study_id: str, sha256: str) -> bool:
        """Whether this version is the model with these tensors of that study.

        Args:
            study_id: MLflow's tag fdan.study_id.
            sha256: of the tensors' file.
        """
        return (self.tags.get("study_id"), self.tags.get("sha256")) == (study_id, sha256)


@dataclass(frozen=True)
class NewVersion:
    """What becomes a version of a registered model."""

    folder: Path
    """The packaged model (tracking/registry/package.py)."""
    experiment_id: str
    run_id: str
    tags: Mapping[str, object]
    """`study_id` and `sha256` among them, which identify the model."""
    description: str


class Registry:
    """One registered model on one MLflow server or database."""

    def __init__(self, uri: str, name: str) -> None:
        check_uri(uri)
        if is_masked(uri):
            raise RegistryError(
                f"the password of {uri} was not stored; give the whole URI with --tracking-uri"
            )
        if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
            raise RegistryError(
                f"--name '{name}' is no name for a model: use letters, digits, _ . -"
            )
        self.database = sqlite_file(uri)
        """The file of an SQLite database; None for a server or another database."""
        if self.database is not None and not self.database.is_file():
            raise RegistryError(
                f"{self.database}: there is no such MLflow database; give --tracking-uri, or run a"
                " study"
            )
        self.uri = uri
        self.name = name
        with self._errors():
            self.client: MlflowClient = connect(uri)

    # The registered model

    def create(self) -> None:
        """Register the model without a version, unless it exists."""
        with self._errors():
            if self._registered() is None:
                with _ignore("RESOURCE_ALREADY_EXISTS"):  # another promotion may be quicker
                    self.client.create_registered_model(self.name, description=_ABOUT)

    def aliases(self) -> dict[str, str]:
        """{alias: version number}; empty if the model is not registered."""
        with self._errors():
            model = self._registered()
        return {} if model is None else {k: str(v) for k, v in model.aliases.items()}

    def set_alias(self, alias: str, number: str | None) -> None:
        """Move an alias.

        Args:
            alias: CHAMPION or PREVIOUS.
            number: of the version that it names from now on; None removes the alias.
        """
        with self._errors():
            if number is None:
                self.client.delete_registered_model_alias(self.name, alias)
            else:
                self.client.set_registered_model_alias(self.name, alias, number)

    def tags(self) -> dict[str, str]:
        """Tags of the registered model, where promotions meet (promotion_lock.py); empty if it is
        not registered."""
        with self._errors():
            model = self._registered()
        return {} if model is None else dict(model.tags)

    def set_tag(self, key: str, value: str | None) -> None:
        """Set a tag of the registered model.

        Args:
            key: the tag's name.
            value: None removes the tag.
        """
        with self._errors():
            if value is not None:
                self.client.set_registered_model_tag(self.name, key, value)
            else:
                with _ignore("RESOURCE_DOES_NOT_EXIST"):
                    self.client.delete_registered_model_tag(self.name, key)

    # Its versions

    def version(self, number: str) -> ModelVersion | None:
        """None if it is gone."""
        with self._errors(), _ignore("RESOURCE_DOES_NOT_EXIST"):
            return _version(self.client.get_model_version(self.name, number))
        return None

    def version_by_alias(self, alias: str) -> ModelVersion | None:
        """The version that the alias names now; None if it names none."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def versions(self) -> list[ModelVersion]:
        """The newest first."""
        with self._errors():
            versions = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(map(_version, versions), key=lambda version: -int(version.number))

    def add_version(self, new: NewVersion) -> ModelVersion:
        """Upload a model's folder and register it. Files that an earlier call which was killed has
        uploaded for the same model (by its tag `sha256`) are used again."""
        tags = {limits.name(k): limits.value(v, limits.TAG) for k, v in new.tags.items()}
        with self._errors():
            model = self._unfinished_upload(new.experiment_id, tags["sha256"])
            if model is None:
                model = self.client.create_logged_model(
                    new.experiment_id, self.name, new.run_id, tags=tags, model_type="fdan"
                )
            self.client.log_model_artifacts(model.model_id, str(new.folder))
            self.client.finalize_logged_model(model.model_id, "READY")
            version = self.client.create_model_version(
                self.name,
                model.artifact_location,
                new.run_id,
                tags=tags,
                description=new.description,
                model_id=model.model_id,
            )
        return _version(version)

    def delete_version(self, number: str) -> None:
        with self._errors():
            self.client.delete_model_version(self.name, number)

    def set_version_tags(self, number: str, tags: Mapping[str, object]) -> None:
        """Set tags of a version.

        Args:
            number: the version's.
            tags: values are written as text.
        """
        with self._errors():
            for key, value in tags.items():
                text = limits.value(value, limits.TAG)
                self.client.set_model_version_tag(self.name, number, limits.name(key), text)

    # Runs of the study that a version comes from

    def experiment_id(self, name: str) -> str | None:
        """None if there is no such experiment, as when the study's records went to another
        server."""
        with self._errors():
            experiment = self.client.get_experiment_by_name(name)
        return None if experiment is None else str(experiment.experiment_id)

    def create_experiment(self, name: str) -> str:
        """Its id; that of the existing one, if there is one."""
        if (existing := self.experiment_id(name)) is not None:
            return existing
        artifacts = None
        if self.database is not None:
            artifacts = (self.database.absolute().parent / "mlartifacts").as_uri()
        with self._errors():
            return str(self.client.create_experiment(name, artifact_location=artifacts))

    def find_run(self, experiment_id: str, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run that has these tags.

        Args:
            experiment_id: where it is looked for.
            tags: all of them.
        """
        with self._errors():
            runs = self.client.search_runs(
                [experiment_id],
                tag_filter(tags),
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
        return str(runs[0].info.run_id) if runs else None

    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a finished run, for a version whose study has none here: for a version without a run
        MLflow's own code looks the model up in whatever database is its default.

        Args:
            experiment_id: where it is made.
            name: of the run.
            tags: of the run.

        Returns:
            Its id.
        """
        with self._errors():
            run = self.client.create_run(experiment_id, tags=dict(tags), run_name=name)
            self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def set_run_tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run.

        Args:
            run_id: the run.
            key: the tag's name.
            value: cut to what MLflow takes.
        """
        with self._errors():
            self.client.set_tag(run_id, key, limits.value(value, limits.TAG))

    def _registered(self) -> RegisteredModel | None:
        with _ignore("RESOURCE_DOES_NOT_EXIST"):
            return self.client.get_registered_model(self.name)
        return None

    def _unfinished_upload(self, experiment_id: str, sha256: str) -> LoggedModel | None:
        """A logged model with the same tensors that is no version's."""
        models = self.client.search_logged_models(
            [experiment_id], filter_string=f"tags.`sha256` = '{sha256}'"
        )
        used = {version.model_id for version in self.versions()}
        return next((m for m in models if m.name == self.name and m.model_id not in used), None)

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return as_registry_error(self.uri)


@contextlib.contextmanager
def as_registry_error(uri: str) -> Iterator[None]:
    """Whatever goes wrong between here and the server at `uri` becomes a RegistryError in one line,
    without the URI's password."""
    try:
        yield
    except FdanError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if secret := urlsplit(uri).password:
            text = text.replace(secret, "***")
        cause = _CAUSE.search(text)
        reason = cause.group(0) if cause else text[:300]
        raise RegistryError(f"{mask_password(uri)}: {reason}") from error


_CAUSE: Final = re.compile(
    r"Connection refused|Name or service not known|[Tt]imed out|could not connect[\w ]*"
    r"|database is locked|HTTP [45]\d\d[\w ]*|error code [45]\d\d"
)


def _version(version: MlflowVersion) -> ModelVersion:
    return ModelVersion(
        str(version.name),
        str(version.version),
        dict(version.tags),
        str(version.source),
        version.model_id,
        version.run_id or None,
    )


@contextlib.contextmanager
def _ignore(error_code: str) -> Iterator[None]:
    """Pass over MLflow's error of this code."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") != error_code:
            raise
