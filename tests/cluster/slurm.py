"""A Slurm of a test's own on this machine: two nodes, with what it takes for four GPUs each."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.siblings import CLUSTER

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "srun")


def needed() -> None:
    """Skips a test, with the reason, where there can be no Slurm of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a Slurm of a test's own needs root on Linux")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"no {', '.join(missing)}: apt-get install munge slurmctld slurmd slurm-client")


@dataclass
class Slurm:
    """`home`: of somebody who has the project in ~/fdan-search."""

    home: Path
    environment: dict[str, str]

    def run(self, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [*words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def submit(self, script: str) -> str:
        path = self.home / "job.sbatch"
        path.write_text(script)
        return self.run("sbatch", "--parsable", f"--output={self.home}/%j.log", path).strip()

    def job(self, number: str) -> dict[str, str]:
        shown = self.run("scontrol", "show", "job", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def token(self, number: str) -> Path:
        return self.home / ".ray" / f"slurm-{number}"

    def until(self, number: str, *states: str, seconds: float = 180) -> dict[str, str]:
        end = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in states:
            log = self.home / f"{number}.log"
            assert time.monotonic() < end, (job, log.read_text() if log.exists() else "no output")
            time.sleep(0.3)
        return job


@contextlib.contextmanager
def started(folder: Path, search: str) -> Iterator[Slurm]:
    """`search` stands in for ~/fdan-search/search/run.py; the rest there is the project's own."""
    project = folder / "home" / "fdan-search"
    (project / "search").mkdir(parents=True)
    (project / "search" / "run.py").write_text(search)
    (project / "cluster").symlink_to(CLUSTER)
    (project / ".venv").symlink_to(sys.prefix)
    environment = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"], "USER": "root"}
    environment["SLURM_CONF"] = str(_configured(folder))
    slurm = Slurm(folder / "home", environment)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_daemon(folder, environment, _munged(folder)))
        wait((folder / "munge.socket").exists)
        stack.enter_context(_daemon(folder, environment, ["slurmctld", "-D"]))
        for node in ("one", "two"):
            stack.enter_context(_daemon(folder, environment, ["slurmd", "-D", "-N", node]))
        wait(lambda: slurm.run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2")
        try:
            yield slurm
        finally:
            slurm.run("scancel", "--user=root")
            wait(lambda: not slurm.run("squeue", "-h"))


def _munged(folder: Path) -> list[str]:
    """By its key the daemons know one another. `folder` is closed to others, hence --force."""
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    return ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files]


@contextlib.contextmanager
def _daemon(folder: Path, environment: dict[str, str], words: list[str]) -> Iterator[None]:
    with (folder / "daemons.log").open("a") as log:
        # It ends with this process.
        dependent = ["setpriv", "--pdeathsig", "KILL", *words]
        process = subprocess.Popen(dependent, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def _configured(folder: Path) -> Path:
    for name in ("state", "one", "two"):
        (folder / name).mkdir()
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
    host = socket.gethostname()
    ports = [_free_port() for _ in range(3)]
    lines = [
        "ClusterName=siblings",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/%n.pid",
        f"SlurmdSpoolDir={folder}/%n",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU",
        "SlurmdParameters=config_overrides",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1",
        "GresTypes=gpu",
        "KillWait=5",
        # Ray's ports and folders in the job are those of its number: none of another test's.
        f"FirstJobId={random.randrange(1000, 10000)}",
        *(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=32 Gres=gpu:4"
            for name, port in zip(("one", "two"), ports[1:], strict=True)
        ),
        "PartitionName=gpus Nodes=ALL",
    ]
    path = folder / "slurm.conf"
    path.write_text("\n".join(lines) + "\n")
    return path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait(what: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
