"""A PostgreSQL server of our own, which can crash and come back."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_USER: Final = "postgres"
"""Who runs it where we are root, whom PostgreSQL refuses."""


class Postgres:
    """A running server; `url` is Optuna's way to it."""

    def __init__(self, programs: Path, data: Path, port: int) -> None:
        self._programs = programs
        self._data = data
        self.url = f"postgresql://chaos@127.0.0.1:{port}/postgres"

    def restart(self) -> None:
        """As after a crash: every connection is cut, nothing is written on the way out."""
        self._control("restart", "-m", "immediate")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def _control(self, *words: str) -> None:
        log = str(self._data.parent / "postgres.log")
        _run([str(self._programs / "pg_ctl"), "-w", "-D", str(self._data), "-l", log, *words])


def refused() -> str:
    """Why there can be no server here; empty where there can."""
    if _programs() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if not os.getuid() and _USER not in (user.pw_name for user in pwd.getpwall()):
        return f"root cannot run PostgreSQL, and there is no user {_USER}"
    return ""


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A server with its data in `folder`; stopped and gone at the end."""
    programs = _programs()
    assert programs is not None
    folder.mkdir(parents=True, exist_ok=True)
    if not os.getuid():
        shutil.chown(folder, _USER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    _run([str(programs / "initdb"), "-A", "trust", "-U", "chaos", "-D", str(data)])
    with (data / "postgresql.conf").open("a", encoding="utf-8") as settings:
        settings.write(f"port = {port}\nlisten_addresses = '127.0.0.1'\n")
        settings.write(f"unix_socket_directories = '{data}'\n")
    server = Postgres(programs, data, port)
    server._control("start")
    try:
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(data, ignore_errors=True)


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


def _run(command: list[str]) -> None:
    # Not to a pipe: the server that pg_ctl starts would keep it open.
    subprocess.run(
        command,
        user=None if os.getuid() else _USER,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
