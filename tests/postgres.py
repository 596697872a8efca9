"""A PostgreSQL of a test's own, to be stopped, started and restarted in the middle of things.

    with postgres(tmp_path) as server:
        url = server.database("optuna")
        ...
        server.restart("immediate")

Its programs come from where the distribution puts them; the system's own server is never touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

_USER = "fdan"

Mode = Literal["fast", "immediate"]
"""How it stops: with open transactions rolled back, or as in a crash."""


class Postgres:
    """url: of its database `postgres`. Everybody on this machine may log in."""

    def __init__(self, programs: Path, data: Path, log: Path, user: int | None) -> None:
        self._programs = programs
        self._data = data
        self._log = log
        self._user = user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = self._url("postgres")
        self._run("initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._ctl("start", "-l", self._data / "server.log", "-o", settings)

    def stop(self, mode: Mode = "fast") -> None:
        self._ctl("stop", "-m", mode)

    def restart(self, mode: Mode = "fast") -> None:
        self.stop(mode)
        self.start()

    def database(self, name: str, template: str = "template0") -> str:
        """Make a database, a copy of another one if it is named; returns its URL."""
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'create database "{name}" template "{template}"')
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"

    def _ctl(self, *arguments: str | Path) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "60", *arguments)

    def _run(self, program: str, *arguments: str | Path) -> None:
        # A file, not a pipe: the server inherits it and would keep a pipe open.
        with self._log.open("ab") as log:
            subprocess.run(
                [self._programs / program, *arguments],
                user=self._user,
                group=None if self._user is None else pwd.getpwuid(self._user).pw_gid,
                extra_groups=None if self._user is None else [],
                cwd=self._data,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                stdout=log,
                stderr=log,
                check=True,
                timeout=120,
            )


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server; what its programs say is in <folder>/postgres.log. Skips the test, with the
    reason, where there is no PostgreSQL or nobody who may run it."""
    programs = _programs()
    user = _who()
    with tempfile.TemporaryDirectory(prefix="fdan-postgres-") as name:
        # Not in `folder`: pytest's folders are closed to the user that the server runs as.
        data = Path(name)
        if user is not None:
            os.chown(data, user, pwd.getpwuid(user).pw_gid)
        server = Postgres(programs, data, folder / "postgres.log", user)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # stopped by the test
                server.stop("immediate")


def _programs() -> Path:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install -e '.[test]'")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    elsewhere = shutil.which("initdb")
    if not found and elsewhere is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(elsewhere)).resolve().parent


def _version(program: Path) -> int:
    version = program.parent.parent.name
    return int(version) if version.isdecimal() else 0


def _who() -> int | None:
    """The user that PostgreSQL is to run as, None for ourselves: root it refuses."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    pytest.skip("PostgreSQL does not run as root, and there is no user to switch to")
