"""A Ray of our own: killed in the very moment in which the search joins it, kept up from one round
to the next, asked to end together with the driver, without its GCS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from search.tune import ray_session

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]

JOINING = """
import os, signal, sys
from pathlib import Path

import ray
from search.tune import ray_session

join = ray._private.worker.connect

def killed_before(*args, **kwargs):
    (raylet,) = ray._private.worker._global_node.all_processes["raylet"]
    raylet.process.send_signal(signal.SIGKILL)
    raylet.process.wait()
    return join(*args, **kwargs)

if sys.argv[2] == "killed":
    ray._private.worker.connect = killed_before
with ray_session.connected(None, Path(sys.argv[1]), cpus=1):
    print("joined", file=sys.stderr)
"""


@pytest.mark.parametrize(("raylet", "code"), [("killed", 1), ("alive", 0)])
def test_its_end_has_a_clear_line(tmp_path: Path, raylet: str, code: int) -> None:
    """Ray's core ends the whole process there; whatever it says itself, ours is the last line."""
    command = [sys.executable, "-c", JOINING, str(tmp_path), raylet]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == code, ended.stderr
    if raylet == "alive":
        assert last == "joined"
    else:
        assert last.startswith("error: the search ended while it joined Ray"), ended.stderr
        assert last.endswith("the same command goes on")


ROUNDS = """
import sys
from pathlib import Path

import ray
from search.tune import ray_session

with ray_session.RaySession(None, Path(sys.argv[1]), cpus=1) as session:
    assert not ray.is_initialized()
    for down in (False, False, True, False):
        if down:
            session.stop()
            assert not ray.is_initialized()
        session.start()
        print(ray.get_runtime_context().get_node_id(), file=sys.stderr)
assert not ray.is_initialized()
"""


def test_one_stands_until_it_is_put_down(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ROUNDS, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    first, second, third, fourth = ended.stderr.splitlines()
    assert first == second != third == fourth


ASKED = """
import os, signal, sys, time
from pathlib import Path

import ray
from search.tune import ray_session

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
with ray_session.connected(None, Path(sys.argv[1]), cpus=1):
    where = ray.remote(lambda: os.getpid())
    worker = ray.get(where.remote())
    os.killpg(0, signal.SIGTERM)
    time.sleep(2)
    ray_session.check_ray_alive()
    assert heard == [1]
    assert ray.get(where.remote()) == worker
os.kill(os.getpid(), signal.SIGTERM)
assert heard == [1, 1]
"""


def test_asked_to_end_together_with_its_driver_it_stays(tmp_path: Path) -> None:
    """A GCS that ended would be waited for in Ray's core, which ends the driver a minute later."""
    command = [sys.executable, "-c", ASKED, str(tmp_path)]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert ended.returncode == 0, ended.stderr


BETWEEN = """
import signal, sys, time
from pathlib import Path

import ray
from search.tune import ray_session

with ray_session.RaySession(None, Path(sys.argv[1]), cpus=1) as session:
    session.start()
    # A round: Ray's threads have asked the GCS what they ask at first.
    assert ray.get(ray.remote(lambda: "done").remote()) == "done"
    time.sleep(3)
    (gcs,) = ray._private.worker._global_node.all_processes["gcs_server"]
    gcs.process.send_signal(signal.SIGKILL)
    gcs.process.wait()
    try:
        session.start()
    except ray_session.RayLostError as lost:
        print(repr(lost), file=sys.stderr)
    session.stop()
    session.start()
    print(ray.cluster_resources()["CPU"], file=sys.stderr)
"""


def test_one_that_breaks_down_between_two_rounds_is_found_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BETWEEN, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    lost, cpus = ended.stderr.splitlines()
    assert (lost, cpus) == ('RayLostError("Ray\'s gcs_server ended (exit code -9)")', "1.0")


WITHOUT_GCS = """
import signal, sys
from pathlib import Path

import optuna
import ray
from search.tune import ray_session
from search.study.trial_controller import TrialController
from search.study.trial_controller import TrialPolicy
from search.study.writer import StudyWriter
from search.tune.grouping import SingleTrials
from search.config.spec import TrialResources
from search.tune.capacity import Capacity
from search.tune.searcher import OptunaSearcher, StopTune

def ends_meanwhile(trial):
    (gcs,) = ray._private.worker._global_node.all_processes["gcs_server"]
    gcs.process.send_signal(signal.SIGKILL)
    gcs.process.wait()
    return {}

study = optuna.create_study()
writer = StudyWriter(study, ends_meanwhile, "none")
controller = TrialController(writer, TrialPolicy(epochs=3), 5)
with ray_session.connected(None, Path(sys.argv[1]), cpus=1):
    capacity = Capacity(TrialResources(cpus=1), ray.nodes)
    try:
        OptunaSearcher(controller, capacity, SingleTrials()).suggest("a")
    except StopTune as stopped:
        print(repr(stopped.__cause__), file=sys.stderr)
"""


def test_no_trial_is_handed_to_a_ray_without_its_gcs(tmp_path: Path) -> None:
    """Tune would ask the GCS about it, and the driver wait there until Ray's core ends it."""
    command = [sys.executable, "-c", WITHOUT_GCS, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1] == 'RayLostError("Ray\'s gcs_server ended (exit code -9)")'


THREAD = """
import gc, sys, threading
from pathlib import Path

import ray
from search.tune import ray_session

def run():
    with ray_session.connected(None, Path(sys.argv[1]), cpus=1):
        up = ray.is_initialized()
    print(up, ray.is_initialized(), gc.isenabled(), flush=True)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def test_a_thread_that_is_not_the_main_one_has_a_ray_too(tmp_path: Path) -> None:
    """Python sets no signal handlers there: a study in a server or a notebook's thread."""
    command = [sys.executable, "-c", THREAD, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout == "True False True\n", done.stderr


JOINED = """
import os, sys, time
from pathlib import Path

import ray
from search.tune import ray_session

with ray_session.connected(sys.argv[2], Path(sys.argv[1])):
    bound = ray.get(ray.remote(lambda: os.environ["OMP_PROC_BIND"]).remote())
    print(bound, file=sys.__stdout__, flush=True)  # sys.stdout is Ray's log now
    while sys.argv[3] != "leave":
        time.sleep(0.1)
"""


@pytest.mark.parametrize("gone", ["gcs_server", "leave"])
def test_what_becomes_of_a_study_whose_cluster_goes_is_its_last_line(
    tmp_path: Path, nodes: Cluster, gone: str
) -> None:
    """Ray's core ends the process where the cluster's GCS goes. (Where raylets alone are killed, a
    process that asks nothing of Ray went on for two minutes.) Whoever leaves says nothing."""
    command = [sys.executable, "-c", JOINED, str(tmp_path), "auto", gone]
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "false\n", "its workers are not pinned to one core"
            if gone != "leave":
                (process,) = nodes.head_node.all_processes[gone]
                process.process.kill()
            _, said = driver.communicate(timeout=120)
        finally:
            driver.kill()
    if gone == "leave":
        assert (driver.returncode, said) == (0, "")
    else:
        last = said.splitlines()[-1]
        assert driver.returncode
        assert last.startswith(f"error: the search ended: the Ray cluster at {nodes.address}")
        assert last.endswith("nothing is lost: the same command goes on")


def test_what_ray_raises_of_a_cluster_that_is_gone_is_one_line() -> None:
    with (
        pytest.raises(ray_session.ClusterError) as caught,
        ray_session.telling_of_lost_cluster("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1"),
    ):
        raise RuntimeError("of Ray's")
    line = str(caught.value)
    assert line.startswith("RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there")
    assert line.endswith("the cluster is gone; nothing is lost: the same command goes on")
    with pytest.raises(RuntimeError), ray_session.telling_of_lost_cluster(None, None):
        raise RuntimeError("a fault of ours")


def test_auto_without_a_cluster_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ray_session.ClusterError) as caught:
        ray_session.check_address("auto", "RAY_ADDRESS=auto")
    line = str(caught.value)
    assert line.startswith("RAY_ADDRESS=auto: no Ray cluster was started on this machine")
    assert "--temp-dir: set RAY_TMPDIR to that folder" in line and "--address local" in line
