"""The registry is the tracking server's own, whatever the environment names beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fdan.errors import FdanError
from tests.finished import link
from tests.tracking import by_hand
from tracking.__main__ import main
from tracking.registry.download import model_folder
from tracking.registry.registry import Registry

if TYPE_CHECKING:
    from conftest import Tables

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache")]


def test_another_registry_is_refused_by_all_that_would_ask_it(
    database: Tables,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There, no champion is found: the first winner that comes along would take its place."""
    study = link(finished / "good", tmp_path / "runs" / "good")
    by_hand.champion(Registry(database.uri, "fdan"), finished / "small")
    before = database.rows("select * from registered_model_aliases")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", other)
    for command in (
        ("promote", str(study), "--tracking-uri", database.uri),
        ("promote", str(study), "--tracking-uri", database.uri, "--dry-run"),
        ("champion",),
        ("rollback", "--reason", "wrong labels"),
    ):
        assert main(command) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"error: MLFLOW_REGISTRY_URI names another registry ({other})")
        assert line.endswith("unset MLFLOW_REGISTRY_URI\n") and line.count("\n") == 1
    with pytest.raises(FdanError, match="MLFLOW_REGISTRY_URI names another registry"):
        model_folder("models:/fdan@champion")
    assert not (tmp_path / "other.db").exists()
    assert database.rows("select * from registered_model_aliases") == before

    monkeypatch.setenv("MLFLOW_REGISTRY_URI", database.uri)
    assert main(["champion"]) == 0
    assert "fdan/1" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["databricks", "./mlruns", "127.0.0.1:5000", "sqlite://"])
def test_a_server_that_cannot_be_one_is_named_with_its_variable(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
    assert main(["champion"]) == 2
    assert capsys.readouterr().err.startswith(f"error: MLFLOW_TRACKING_URI '{value}'")
