"""Models that MLflow holds as local folders, and hostile ones that are not used."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.inference.model_folder import read_model
from tests.finished import link
from tests.tracking import by_hand
from tracking.registry.download import (
    DIGESTS,
    ArtifactError,
    ArtifactFolder,
    file_digests,
    model_folder,
)
from tracking.registry.registry import CHAMPION, NewVersion, Registry, RegistryError

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from conftest import MlflowServer, Tables


class Harm:
    """What a pickle can do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return Path.touch, (self.marker,)


@pytest.fixture
def registry(
    database: Tables, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """./runs/mlflow.db, which nobody has to name."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return Registry(database.uri, "fdan")


Register = Callable[[Path], str]


@pytest.fixture
def register(registry: Registry) -> Register:
    """A folder as the champion: without promotion, so that it may be anything. Returns where its
    files lie."""

    def make(folder: Path) -> str:
        registry.create()
        tags = file_digests(folder / "artifacts/model")
        version = registry.add_version(NewVersion(folder, *by_hand.run(registry), tags, ""))
        by_hand.name_alias(registry, CHAMPION, version.number)
        return version.source.removeprefix("file://")

    return make


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    """A model's folder as promotion lays it out, without MLflow's own files."""
    folder = tmp_path / "model"
    link(finished / "good" / "winner", folder / "artifacts" / "model")
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "served.py").write_text("raise SystemExit('this must not be run')\n")
    return folder


def test_a_registered_model_is_a_local_folder(
    register: Register, model: Path, finished: Path, cache: Path
) -> None:
    """By alias and by version, without running the code that lies in it; downloaded once."""
    register(model)
    folder = model_folder("models:/fdan@champion")
    assert folder == model_folder("models:/fdan/1")
    names = ["model.json", "model.safetensors", "served.json", "test.csv"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert json.loads((folder / "served.json").read_text()) == {"name": "fdan", "version": "1"}
    assert cache in folder.parents
    assert read_model(folder).facts["study"] == "good"
    theirs = Predictions.read(finished / "good" / "winner" / "test.csv")
    assert (Predictions.read(folder / "test.csv").probabilities == theirs.probabilities).all()
    before = (folder / "model.safetensors").stat().st_ino
    assert (model_folder("models:/fdan/1") / "model.safetensors").stat().st_ino == before


@pytest.mark.parametrize("name", [*DIGESTS.values(), "served.json"])
def test_what_was_spoilt_in_the_cache_is_downloaded_again(
    register: Register, model: Path, name: str
) -> None:
    """Cut at the end of a line, which for a table still reads well; other bytes; no file."""
    register(model)
    file = model_folder("models:/fdan/1") / name
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    for spoilt in (b"".join(lines[:-1]), bytes([*whole[:-2], whole[-2] ^ 1]) + whole[-1:], None):
        file.unlink()
        if spoilt is not None:
            file.write_bytes(spoilt)
        assert model_folder("models:/fdan/1") == file.parent
        assert file.read_bytes() == whole


def test_a_runs_artifact_is_a_local_folder(
    registry: Registry, finished: Path, tmp_path: Path
) -> None:
    _, run = by_hand.run(registry)
    registry.client.log_artifacts(run, str(finished / "good" / "winner"), "winner")
    folder = model_folder(f"runs:/{run}/winner")
    assert read_model(folder).facts["study"] == "good"
    with pytest.raises(ArtifactError, match=r"holds no artifacts/model/model\.json"):
        model_folder(f"runs:/{run}")


def test_from_a_server(
    server: MlflowServer, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the server's own door for artifacts."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    registry = Registry(server.uri, "download")
    registry.create()
    tags = file_digests(model / "artifacts/model")
    registry.add_version(NewVersion(model, *by_hand.run(registry), tags, ""))
    assert read_model(model_folder("models:/download/1")).facts["study"] == "good"


def _pickle_by_name(place: Path, marker: Path) -> None:
    (place / "python_model.pkl").write_bytes(pickle.dumps(Harm(marker)))


def _pickle_as_tensors(place: Path, marker: Path) -> None:
    file = place / "artifacts/model/model.safetensors"
    file.unlink()
    file.write_bytes(pickle.dumps(Harm(marker)))


def _pickle_as_facts(place: Path, marker: Path) -> None:
    file = place / "artifacts/model/model.json"
    file.unlink()
    file.write_bytes(pickle.dumps(Harm(marker), protocol=0))


def _torch_zip(place: Path, marker: Path) -> None:
    import torch

    file = place / "artifacts/model/model.safetensors"
    file.unlink()
    torch.save({"a": torch.zeros(2)}, file)


def _truncated(place: Path, marker: Path) -> None:
    file = place / "artifacts/model/model.safetensors"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1000])


def _no_tensors(place: Path, marker: Path) -> None:
    (place / "artifacts/model/model.safetensors").unlink()


def _other_tensors(place: Path, marker: Path) -> None:
    file = place / "artifacts/model/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)


def _other_seconds(place: Path, marker: Path) -> None:
    """Well-formed, and another window of the sound: other answers."""
    file = place / "artifacts/model/model.json"
    facts = json.loads(file.read_text())
    facts["preparation"]["acoustic"]["seconds"] = 1.0
    file.unlink()
    file.write_text(json.dumps(facts))


def _wrong_answers(place: Path, marker: Path) -> None:
    """A well-formed table that lets anybody be better than the champion."""
    file = place / "artifacts/model/test.csv"
    theirs = Predictions.read(file)
    file.unlink()
    dataclasses.replace(theirs, probabilities=theirs.probabilities[:, ::-1]).write(file)


def _no_answers(place: Path, marker: Path) -> None:
    (place / "artifacts/model/test.csv").unlink()


def _link_to_a_secret(place: Path, marker: Path) -> None:
    file = place / "artifacts/model/model.json"
    file.unlink()
    file.symlink_to("/etc/passwd")


def _folder_that_is_a_link(place: Path, marker: Path) -> None:
    shutil.rmtree(place / "artifacts")
    (place / "artifacts").symlink_to("/etc")


def _not_ours(place: Path, marker: Path) -> None:
    shutil.rmtree(place / "artifacts")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_pickle_by_name, "python_model.pkl is a pickle by its name"),
        (_pickle_as_tensors, "model.safetensors is a pickle"),
        (_pickle_as_facts, "model.json is a pickle"),
        (_torch_zip, "model.safetensors is a zip archive"),
        (_truncated, "model.safetensors is damaged"),
        (_no_tensors, "holds no model.safetensors"),
        (_other_tensors, "model.safetensors is not the file that was registered"),
        (_other_seconds, "model.json is not the file that was registered"),
        (_wrong_answers, "test.csv is not the file that was registered"),
        (_no_answers, "holds no test.csv"),
        (_link_to_a_secret, "'artifacts/model/model.json' is a link"),
        (_folder_that_is_a_link, "'artifacts' is a link"),
        (_not_ours, "is no model of fdan-search"),
    ],
)
def test_what_is_hostile_or_damaged_is_not_used(
    register: Register,
    model: Path,
    tmp_path: Path,
    cache: Path,
    spoil: Callable[[Path, Path], None],
    words: str,
) -> None:
    """Whoever can write where artifacts lie. One line, nothing run, nothing kept."""
    place = Path(register(model))
    marker = tmp_path / "harmed"
    spoil(place, marker)
    with pytest.raises(ArtifactError) as caught:
        model_folder("models:/fdan@champion")
    line = str(caught.value)
    assert words in line and line.startswith("models:/fdan/1 is not used: ") and "\n" not in line
    assert not marker.exists()
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    "path", ["../../outside", "/etc/passwd", "a/../../b", "artifacts\\..\\..\\x"]
)
def test_a_path_that_climbs_out_is_refused(path: str) -> None:
    """What a server might list."""

    class Hostile:
        def list_artifacts(self, folder: str | None) -> list[object]:
            from mlflow.entities import FileInfo

            return [FileInfo(path, False, 1)]

    artifacts = ArtifactFolder("file:///", "http://x")
    vars(artifacts)["repository"] = Hostile()
    with pytest.raises(ArtifactError, match="climbs out"):
        list(artifacts.files())


@pytest.mark.parametrize("tag", DIGESTS)
def test_a_version_whose_files_nothing_vouches_for_is_refused(
    register: Register, registry: Registry, model: Path, tag: str
) -> None:
    register(model)
    registry.client.delete_model_version_tag("fdan", "1", tag)
    with pytest.raises(ArtifactError) as caught:
        model_folder("models:/fdan@champion")
    line = str(caught.value)
    assert f"it has no tag {tag}, so its {DIGESTS[tag]} cannot be checked" in line
    assert "set that tag to the file's sha256" in line and "\n" not in line


def test_damaged_facts_are_one_line(register: Register, model: Path) -> None:
    file = model / "artifacts/model/model.json"
    facts = json.loads(file.read_text())
    facts["run"]["layers"] = 9
    file.unlink()
    file.write_text(json.dumps(facts))
    register(model)
    with pytest.raises(FdanError) as caught:
        read_model(model_folder("models:/fdan@champion"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("models:/fdan@champion", "has no such model"),
        ("models:/other/3", "has no such model"),
        ("models:/fdan", "names no model"),
        ("models:/../../etc@x", "names no model"),
        ("runs:/0123", "names no model"),
        ("runs:/" + "0" * 32, "not found"),
    ],
)
def test_what_names_no_model(registry: Registry, uri: str, words: str) -> None:
    with pytest.raises(RegistryError, match=words):
        model_folder(uri)


def test_no_mlflow_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"no runs/mlflow\.db here"):
        model_folder("models:/fdan@champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9"):
        model_folder("models:/fdan@champion")
