"""cluster/slurm.sbatch on a real Slurm, with a real Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.cluster.siblings import CLUSTER, filled
from tests.cluster.slurm import Slurm, needed, started, wait

pytestmark = pytest.mark.long

# Stands in for the search: it waits for both nodes, and says what it has seen.
SEARCH = """
import json, os, subprocess, sys, time
from pathlib import Path
import ray
token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
ray.init(log_to_driver=False)
while len([node for node in ray.nodes() if node["Alive"]]) < 2:
    time.sleep(0.2)
other = token.with_name("other")
other.write_text("0" * 64)
asked = ["ray", "health-check", "--address", os.environ["RAY_ADDRESS"]]
without = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(other)}
seen = {
    "arguments": sys.argv[1:],
    "cores": ray.cluster_resources()["CPU"],
    "mode": token.stat().st_mode & 0o777,
    "shared": os.environ["FDAN_SHARED"],
    "tracking": os.environ.get("MLFLOW_TRACKING_URI"),
    "answers": subprocess.run(asked).returncode == 0,
    "answers another token": subprocess.run(asked, env=without).returncode == 0,
}
Path("seen.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    needed()
    with started(tmp_path_factory.mktemp("slurm"), SEARCH) as found:
        yield found


def test_slurm_takes_the_job_and_refuses_it_where_it_is_not_filled_in(slurm: Slurm) -> None:
    path = slurm.home / "test-only.sbatch"
    path.write_text(filled("slurm.sbatch"))
    taken = slurm.run("sbatch", "--test-only", path)
    assert "using 64 processors on nodes one,two" in taken
    assert "invalid partition" in slurm.run("sbatch", CLUSTER / "slurm.sbatch", check=False)
    path.write_text(filled("slurm.sbatch").replace("--gpus-per-node=4", "--gpus-per-node=5"))
    assert "not available" in slurm.run("sbatch", "--test-only", path, check=False)


def test_the_search_runs_on_all_machines_of_the_job(slurm: Slurm) -> None:
    number = slurm.submit(filled("slurm.sbatch"))
    slurm.until(number, "COMPLETED")
    shutil.rmtree(f"/tmp/fdan-{number}")
    assert json.loads((slurm.home / "fdan-search" / "seen.json").read_text()) == {
        "arguments": ["--task", "savee:/scratch/SAVEE", "--trials", "200"],
        "cores": 64.0,
        "mode": 0o600,
        "shared": "/scratch",
        "tracking": None,
        "answers": True,
        "answers another token": False,
    }
    assert not slurm.token(number).exists()
    assert not list((slurm.home / ".ray").glob("slurm-*"))


def test_a_job_whose_time_is_up_is_queued_again(slurm: Slurm) -> None:
    number = slurm.submit(filled("slurm.sbatch"))
    wait(slurm.token(number).exists)
    slurm.run("scancel", "--signal=USR1", "--batch", number)
    job = slurm.until(number, "PENDING")
    assert job["Restarts"] == "1"
    slurm.run("scancel", number)
    shutil.rmtree(f"/tmp/fdan-{number}", ignore_errors=True)
