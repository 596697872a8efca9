"""Tracking URIs that need a driver."""

from __future__ import annotations

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
