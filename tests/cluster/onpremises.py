"""An on-premises cluster as its user sees it: commands on the laptop, and what they come to."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fdan.corpora import demo
from tests.cluster.machines import (
    HOME,
    ROOT,
    SHARED,
    USER,
    Machine,
    fetch_uv,
    fill_cache,
    switched,
)
from tests.postgres import Postgres, postgres

MARK = "# FILL IN"
CONFIG = HOME / "config.yaml"
KEY = HOME / ".ssh" / "fdan-cluster"
HEAD, WORKER, LATER = "10.77.0.1", "10.77.0.2", "10.77.0.3"


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """A configuration with its marked lines filled in, and nothing else. Each value is used."""
    left = dict(values)

    def fill(line: str) -> str:
        if MARK not in line:
            return line
        before = line[: line.index(MARK)].rstrip()
        key = next(key for key in left if re.search(rf"\b{key}\b", before))
        return re.sub(rf"(\b{key}\b:? ).*", lambda found: found[1] + left.pop(key), before)

    made = "\n".join(fill(line) for line in text.splitlines()) + "\n"
    assert not left, f"no marked line for {left}"
    return made


@dataclass
class Cluster:
    """A laptop, a head and a worker, a machine that is not in the configuration yet and has no uv,
    and a PostgreSQL for the head."""

    laptop: Machine
    head: Machine
    worker: Machine
    later: Machine
    database: Postgres
    url: str
    others: dict[str, float]
    """others() before anything was started."""
    timings: dict[str, float] = field(default_factory=dict)

    def types(self, *words: str) -> str:
        """What a user types on the laptop, in the checkout's folder; returns what it says."""
        began = time.monotonic()
        done = self.laptop.run(*words)
        self.timings[" ".join(words)[:60]] = time.monotonic() - began
        assert done.returncode == 0, f"{words}:\n{done.stdout[-6000:]}\n{self.log()}"
        return done.stdout

    def log(self) -> str:
        """Last words: the autoscaler's, the tracking server's, the search's."""
        files = [*self.head.disk.glob("ray/session_2*/logs/monitor.*")]
        files += [self.head.home / ".mlflow" / "server.log"]
        said = "\n".join(f"{f}:\n{f.read_text()[-3000:]}" for f in files if f.is_file())
        return said + self.head.run("tmux", "capture-pane", "-p", "-S", "-50").stdout

    def mlflow(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of MLflow's tables, read from PostgreSQL without MLflow."""
        import psycopg2  # type: ignore[import-untyped]

        with (
            self.head.network(),
            contextlib.closing(psycopg2.connect(self.url)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query)
            return list(cursor.fetchall())

    def trials(self) -> dict[int, dict[str, str]]:
        """Tags of each trial's run, by its number, and its status."""
        found: dict[int, dict[str, str]] = {}
        rows = self.mlflow(
            "select r.name, r.status, t.key, t.value from runs r join tags t using (run_uuid)"
            " where r.name like 'trial-%'"
        )
        for name, status, key, value in rows:
            found.setdefault(int(name.removeprefix("trial-")), {"status": status})[key] = value
        return found

    def wait_for(self, what: Callable[[], object], seconds: float, why: str) -> float:
        """Returns how long it took."""
        began = time.monotonic()
        while not what():
            if time.monotonic() - began > seconds:
                seen = {n: (tags["status"], tags.get("node")) for n, tags in self.trials().items()}
                raise AssertionError(f"not within {seconds} s: {why}\n{seen}\n{self.log()}")
            time.sleep(0.5)
        self.timings[why] = time.monotonic() - began
        return self.timings[why]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Machines that the user can log in to, a corpus on the head, and a PostgreSQL's address on the
    laptop. Ray is not up yet."""
    before = others()
    fill_cache(folder / "warm")
    with contextlib.ExitStack() as stack:
        laptop = stack.enter_context(switched(folder))
        machines = []
        fetch_uv(folder / "shared" / "wheels")
        for name, address in (("head", HEAD), ("worker", WORKER), ("later", LATER)):
            wheels = SHARED / "wheels" if name == "later" else None
            machine = Machine(name, address, folder, laptop, wheels)
            shutil.copy(
                laptop.home / ".ssh" / "id_ed25519.pub", machine.home / ".ssh" / "authorized_keys"
            )
            stack.callback(machine.kill)
            machine.start()
            machines.append(machine)
        head, worker, later = machines
        with head.network():
            database = stack.enter_context(postgres(folder))
            url = database.database("mlflow")
        # It trusts everybody there: a password of any kind will do, and can be looked for.
        url = url.replace("@", f":{secrets.token_hex(12)}@")
        demo.generate(head.home / "data", speakers=4, takes=1, uneven=False, workers=1)
        (laptop.home / "postgres-url").write_text(url + "\n")
        values = {
            "head_ip": HEAD,
            "worker_ips": f"[{WORKER}]",
            "ssh_user": USER,
            "ssh_private_key": str(KEY).replace(str(HOME), "~"),
            "install.sh": str(SHARED),
        }
        config = (ROOT / "cluster" / "config.yaml").read_text()
        (laptop.home / "config.yaml").write_text(filled_in(config, values))
        yield Cluster(laptop, head, worker, later, database, url, before)


def others() -> dict[str, float]:
    """When files last changed that are this machine's own, or of the user who tests here."""
    found = [Path("/etc/passwd"), Path("/var/log/wtmp"), *Path("/run/netns").glob("*")]
    for name in (".bashrc", ".profile", ".ssh", ".mlflow", "run.py", "runs", "fdan-search"):
        found += [Path.home() / name, *(Path.home() / name).glob("*")]
    return {str(path): path.stat().st_mtime for path in found if path.exists()}


def processes(machine: Machine) -> Iterator[tuple[list[str], list[str]]]:
    """Words and environment of each that runs there."""
    space = Path(f"/proc/{machine.pid}/ns/pid").readlink()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns" / "pid").readlink() == space:
                words = (entry / "cmdline").read_text().split("\0")
                yield words, (entry / "environ").read_text().split("\0")


def holding(text: str, folder: Path) -> set[str]:
    """Files below a folder that a text is in; what is linked to elsewhere is not read."""
    found = set()
    for path, _, names in os.walk(folder):
        for file in (Path(path) / name for name in names):
            if file.is_file() and not file.is_symlink():
                with contextlib.suppress(OSError):
                    if text.encode() in file.read_bytes():
                        found.add(str(file.relative_to(folder)))
    return found


def forwarded(laptop: Machine, port: int) -> subprocess.Popen[bytes]:
    """`ssh -L` from the laptop to the head."""
    words = ["ssh", "-N", "-o", "StrictHostKeyChecking=no", "-o", "ExitOnForwardFailure=yes"]
    words += ["-L", f"{port}:127.0.0.1:{port}", "-i", str(KEY), f"{USER}@{HEAD}"]
    return subprocess.Popen(laptop.words(*words), env=laptop.environment())
