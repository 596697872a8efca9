"""Tracking URIs: which can work, and which needs a driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdan.errors import FdanError
from tracking import uri as uri_module


def test_a_postgresql_names_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"psycopg2"}
    monkeypatch.setattr(uri_module, "find_spec", lambda name: name if name in installed else None)
    assert uri_module.with_driver("postgresql://me@h/db") == "postgresql+psycopg2://me@h/db"
    installed.add("psycopg")
    assert uri_module.with_driver("postgresql://me@h/db") == "postgresql+psycopg://me@h/db"
    for other in ("postgresql+psycopg2://me@h/db", "sqlite:////tmp/x.db", "http://h"):
        assert uri_module.with_driver(other) == other
    installed.clear()
    with pytest.raises(FdanError, match=r"'postgresql://me:\*\*\*@h/db': no driver .* pip install"):
        uri_module.check_uri("postgresql://me:secret@h/db")


@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite:///memory.db", "sqlite+pysqlite:////a/x.db", "http://host:5000", "https://h/m"),
        *("http://h:/", "http://u:p@[::1]:5000/m:x", "http://h?a:b"),
    ],
)
def test_a_server_or_a_file_is_one(uri: str) -> None:
    uri_module.check_uri(uri)


@pytest.mark.parametrize("uri", ["sqlite:///", "sqlite:///file:x?mode=memory&uri=true"])
def test_what_has_no_file_is_refused(uri: str) -> None:
    with pytest.raises(FdanError, match=r"--tracking-uri '.*' names no file"):
        uri_module.check_uri(uri, "--tracking-uri")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:mlflow.db", "three slashes"),
        ("sqlite://mlflow.db", "names no file"),
        ("http://localhost:abc", "port is no number from 1 to 65535; give http://HOST:PORT"),
        ("https://u:p@h:70000/m", "port is no number"),
        ("http://[::1]:x", "port is no number"),
        ("postgresql+psycopg2://u:s/e@h:5x/db", "port is no number"),
        ("http://[::1", "is no URI"),
        (" sqlite:////tmp/x.db", "begins or ends with a blank"),
        ("http://h:5000\n", "begins or ends with a blank"),
        ("sqlite:///{}", "is a folder; give a file in it"),
        ("mysql://u@h/db", r"names no driver: give mysql\+DRIVER://"),
        (
            "mysql+pymysql://u:secret@h/db",
            r"'mysql\+pymysql://u:\*\*\*@h/db': no pymysql is installed",
        ),
    ],
)
def test_what_waiting_would_not_mend_is_refused(uri: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(FdanError, match=words):
        uri_module.check_uri(uri.format(tmp_path))


def test_the_servers_own_registry_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://u:secret@h:5000/")
    uri_module.check_registry("http://u:secret@h:5000")
    with pytest.raises(FdanError, match=r"MLFLOW_REGISTRY_URI .*u:\*\*\*@h.* unset"):
        uri_module.check_registry("http://h:5000")
