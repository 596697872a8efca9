"""How many CPUs there are: bound by taskset, by quotas of control groups of both versions."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from fdan.files import PROJECT_ROOT
from fdan.machine import cpus

V2 = "0::/user.slice/job.scope\n"
V1 = "5:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n1:name=systemd:/docker/abc\n"
GROUPS = "sys/fs/cgroup"


def system(root: Path, groups: str, files: Mapping[str, str]) -> Path:
    """A machine's files about control groups."""
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        (V2, {f"{GROUPS}/user.slice/job.scope/cpu.max": "150000 100000\n"}, 1.5),
        (V2, {f"{GROUPS}/user.slice/cpu.max": "50000 100000\n"}, 0.5),
        (
            V2,
            {
                f"{GROUPS}/user.slice/job.scope/cpu.max": "max 100000\n",
                f"{GROUPS}/user.slice/cpu.max": "300000 100000\n",
                f"{GROUPS}/cpu.max": "800000 100000\n",
            },
            3,
        ),
        ("0::/\n", {f"{GROUPS}/cpu.max": "200000 100000\n"}, 2),
        ("0::/../outside\n", {f"{GROUPS}/cpu.max": "200000 100000\n"}, 2),
        (
            V1,
            {
                f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "400000\n",
                f"{GROUPS}/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            V1,  # inside a container its own group is at the top
            {
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "50000\n",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            V1,
            {
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
        (V2, {}, math.inf),
        ("garbage\n", {}, math.inf),
    ],
)
def test_a_quota_is_the_least_one_on_the_way_up(
    groups: str, files: Mapping[str, str], quota: float, tmp_path: Path
) -> None:
    assert cpus.cpu_quota(system(tmp_path, groups, files)) == quota


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpus.cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("bound", "quota", "count"),
    [(8, math.inf, 8), (8, 3.0, 3), (8, 2.5, 3), (8, 0.5, 1), (2, 16.0, 2), (1, 0.1, 1)],
)
def test_the_count_is_the_least(
    bound: int, quota: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert cpus.cpu_count() == count
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: bound)
    assert cpus.cpu_count() == count


def test_a_search_that_is_bound_to_one_cpu_plans_for_one(tmp_path: Path) -> None:
    if shutil.which("taskset") is None or cpus.cpu_count() == 1:
        pytest.skip("no taskset here, or no second CPU")
    command = [sys.executable, str(PROJECT_ROOT / "search" / "run.py"), "--dry-run"]
    plans = [
        subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
        for words in (["taskset", "-c", "0", *command], command)
    ]
    assert ["may use 1 CPU of" in plan.stdout for plan in plans] == [True, False]


PINNED = """
import os, sys
before = os.sched_getaffinity(0)
if sys.argv[1] == "ours":
    from fdan.machine.cpus import use_all_cpus
    use_all_cpus()
import torch
torch.ones(300, 300) @ torch.ones(300, 300)
print(len(before), len(os.sched_getaffinity(0)))
"""


@pytest.mark.parametrize("room", ["fdan", "search", "search.cli.main", "tracking"])
def test_each_command_frees_its_threads(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    monkeypatch.setattr(cpus, "cpu_quota", lambda: 1.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    name = room if room.endswith("main") else f"{room}.__main__"
    with pytest.raises(SystemExit):
        importlib.import_module(name).main(["--version"])
    assert os.environ["OMP_PROC_BIND"] == "false"
    assert int(os.environ["OMP_NUM_THREADS"]) <= 2
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # undone at the end
    monkeypatch.setenv("KMP_AFFINITY", "")


def test_a_profile_that_pins_threads_does_not_bind_us() -> None:
    """Without us, each process is bound to the first core: the plain one shows it here."""
    environment = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "KMP_AFFINITY": "compact"}
    counts = {}
    for who in ("plain", "ours"):
        done = subprocess.run(
            [sys.executable, "-c", PINNED, who],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        counts[who] = tuple(map(int, done.stdout.split()))
    if counts["plain"][0] == 1:
        pytest.skip("one CPU here")
    assert counts["plain"][1] == 1
    assert counts["ours"][0] == counts["ours"][1]
