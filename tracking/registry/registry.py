"""The model registry: versions of one registered model, who is champion, and why.

MLflow's aliases keep no history, so every decision is written as tags on the versions that it is
about. Every method raises RegistryError, in one line, where the server is away or refuses.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fdan.errors import FdanError
from tracking.backend import limits
from tracking.backend.client import connect
from tracking.tags import tag_filter
from tracking.uri import check_uri, is_masked, mask_password, sqlite_file

CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
"""Aliases: the version that is used, and the one that was before it."""

DESCRIPTION: Final = 5000
"""Characters that MLflow's column for a version's description has."""

_ABOUT: Final = (
    "Speech emotion models of fdan-search. The alias `champion` is the one to use; it moves only"
    " when a paired test on the same utterances says so. Each version's tags say why it is what it"
    " is."
)


class RegistryError(FdanError):
    """A registry that is away, refuses, or does not hold what it was asked for."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model. number: from "1"; source: where its files lie; run_id: of
    the study's run."""

    name: str
    number: str
    tags: Mapping[str, str]
    source: str
    model_id: str | None
    run_id: str | None

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Registry:
    """One registered model on one MLflow server or database."""

    def __init__(self, uri: str, name: str) -> None:
        check_uri(uri)
        if is_masked(uri):
            raise RegistryError(
                f"the password of {uri} was not kept; give the whole URI with --tracking-uri"
            )
        if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
            raise RegistryError(
                f"--name '{name}' is no name for a model: use letters, digits, _ . -"
            )
        database = sqlite_file(uri)
        if database is not None and not database.is_file():
            raise RegistryError(
                f"{database}: there is no such MLflow database; give --tracking-uri, or run a study"
            )
        self.uri = uri
        self.name = name
        with self._asking():
            self.client = connect(uri)

    # What is there

    def aliases(self) -> dict[str, str]:
        """{alias: number}; empty where the model is not registered at all."""
        with self._asking():
            found = self._registered()
        return {} if found is None else {k: str(v) for k, v in found.aliases.items()}

    def version(self, number: str) -> Version | None:
        """None where it is gone."""
        with self._asking(), _absent():
            return _version(self.client.get_model_version(self.name, number))
        return None

    def aliased(self, alias: str) -> Version | None:
        """The version that the alias names now; None where nobody has it."""
        number = self.aliases().get(alias)
        return None if number is None else self.version(number)

    def versions(self) -> list[Version]:
        """The newest first."""
        with self._asking():
            found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(map(_version, found), key=lambda one: -int(one.number))

    # What is changed

    def create(self) -> None:
        """Register the model, without a version; nothing where it is there."""
        with self._asking():
            if self._registered() is None:
                # Another promotion may be quicker.
                with _there_already():
                    self.client.create_registered_model(self.name, description=_ABOUT)

    def add(
        self,
        folder: Path,
        experiment: str,
        run_id: str,
        tags: Mapping[str, Any],
        description: str,
    ) -> Version:
        """Upload a model's folder and register it as the next version. What an earlier call that
        was killed has left of the same model (by its tag `sha256`) is used again."""
        texts = {limits.name(key): limits.value(value, limits.TAG) for key, value in tags.items()}
        with self._asking():
            model = self._unfinished(experiment, texts)
            if model is None:
                model = self.client.create_logged_model(
                    experiment, self.name, run_id, tags=texts, model_type="fdan"
                )
            self.client.log_model_artifacts(model.model_id, str(folder))
            self.client.finalize_logged_model(model.model_id, "READY")
            made = self.client.create_model_version(
                self.name,
                model.artifact_location,
                run_id,
                tags=texts,
                description=description,
                model_id=model.model_id,
            )
        return _version(made)

    def delete(self, number: str) -> None:
        """Take a version away."""
        with self._asking():
            self.client.delete_model_version(self.name, number)

    def alias(self, alias: str, number: str | None) -> None:
        """Move an alias; None takes it away."""
        with self._asking():
            if number is None:
                self.client.delete_registered_model_alias(self.name, alias)
            else:
                self.client.set_registered_model_alias(self.name, alias, number)

    def tag(self, number: str, tags: Mapping[str, Any]) -> None:
        """Tags of a version."""
        with self._asking():
            for key, value in tags.items():
                text = limits.value(value, limits.TAG)
                self.client.set_model_version_tag(self.name, number, limits.name(key), text)

    # The registered model's own tags, where promotions meet (tracking/registry/promotion_lock.py)

    def notes(self) -> dict[str, str]:
        """Tags of the registered model; empty where there is none."""
        with self._asking():
            found = self._registered()
        return {} if found is None else dict(found.tags)

    def note(self, key: str, value: str | None) -> None:
        """Set one of them; None removes it."""
        with self._asking():
            if value is not None:
                self.client.set_registered_model_tag(self.name, key, value)
            else:
                with _absent():
                    self.client.delete_registered_model_tag(self.name, key)

    # The runs of the study that a version comes from

    def experiment(self, name: str, create: bool = False) -> str | None:
        """Its id. None where it is not there, which happens only where the study's records went to
        another server; with `create` it is made."""
        with self._asking():
            found = self.client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            if not create:
                return None
            database = sqlite_file(self.uri)
            place = None if database is None else (database.parent / "mlartifacts").as_uri()
            return str(self.client.create_experiment(name, artifact_location=place))

    def run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        """Id of the oldest run with these tags."""
        with self._asking():
            found = self.client.search_runs(
                [experiment],
                tag_filter(tags),
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
        return str(found[0].info.run_id) if found else None

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """A finished run for a version that has none here: without one MLflow's own code looks the
        model up in whatever database it takes for granted."""
        with self._asking():
            run = self.client.create_run(experiment, tags=dict(tags), run_name=name)
            self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def tag_run(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Tags of a run."""
        with self._asking():
            for key, value in tags.items():
                self.client.set_tag(run_id, limits.name(key), limits.value(value, limits.TAG))

    def _registered(self) -> Any | None:
        with _absent():
            return self.client.get_registered_model(self.name)
        return None

    def _unfinished(self, experiment: str, tags: Mapping[str, str]) -> Any | None:
        """A logged model of the same tensors that no version was made of."""
        same = f"tags.`sha256` = '{tags['sha256']}'"
        found = self.client.search_logged_models([experiment], filter_string=same)
        used = {one.model_id for one in self.versions()}
        ours = (one for one in found if one.name == self.name and one.model_id not in used)
        return next(ours, None)

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return asking(self.uri)


@contextlib.contextmanager
def asking(uri: str) -> Iterator[None]:
    """What goes wrong between here and the server, as RegistryError in one line."""
    try:
        yield
    except FdanError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if secret := urlsplit(uri).password:
            text = text.replace(secret, "***")
        cause = _CAUSE.search(text)
        why = cause.group(0) if cause else text[:300]
        raise RegistryError(f"{mask_password(uri)}: {why}") from error


_CAUSE: Final = re.compile(
    r"Connection refused|Name or service not known|[Tt]imed out|could not connect[\w ]*"
    r"|database is locked|HTTP [45]\d\d[\w ]*|error code [45]\d\d"
)


def _version(found: Any) -> Version:
    return Version(
        str(found.name),
        str(found.version),
        dict(found.tags),
        str(found.source),
        found.model_id,
        found.run_id or None,
    )


@contextlib.contextmanager
def _absent() -> Iterator[None]:
    """Pass over MLflow's error for what is not there."""
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
            raise


@contextlib.contextmanager
def _there_already() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise
