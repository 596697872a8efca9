"""A real Ray cluster of several nodes on this machine: they come, go, and are refused; a share of a
GPU that is too small grows."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import optuna
import pytest
import ray
import torch
from optuna.trial import TrialState
from ray.cluster_utils import Cluster

from fdan.errors import DeviceError
from search.config.spec import TrialResources
from search.optimizer.space import Space, Value
from search.study.events import REASON, StudyCallback
from search.study.folder import share_checkpoints
from search.study.stopping import StopSignal
from search.tune.grouping import TuneRun
from search.tune.tune_run import find_capacity, run_trials
from search.worker.messages import EpochResult
from search.worker.store_sync import NodeError
from search.worker.trainable import Train, TrialContext, node_id
from tests.search.conftest import ControllerOptions, MakeStudy, controller_of

pytestmark = pytest.mark.long

EPOCHS = 3


class Seen(StudyCallback):
    def __init__(self) -> None:
        self.places: dict[int, list[str]] = {}
        self.interruptions: list[tuple[int, str]] = []

    def on_worker_lost(self, number: int, reason: str) -> None:
        self.interruptions.append((number, reason))


def run(
    study: optuna.Study,
    space: Space,
    train: Train,
    folder: Path,
    options: ControllerOptions,
    say: Callable[[str], None] = lambda _: None,
) -> Seen:
    seen, stop = Seen(), StopSignal(200)
    controller = controller_of(study, space, EPOCHS, seen, options=options)
    capacity = find_capacity(TrialResources(1, options.gpus), notify=say)
    run_trials(
        controller,
        train,
        TuneRun(capacity=capacity, epoch_timeout=600, folder=folder, stop=stop, notify=say),
    )
    assert not stop.reason, "it should have ended by itself"
    return seen


def where(folder: Path) -> dict[int, list[str]]:
    """Trial -> Ray's ids of the nodes that wrote into it, in their order."""
    return {
        int(file.parent.name): file.read_text().split()
        for file in sorted(folder.glob("trials/*/nodes"))
    }


def waiting(until: Path) -> Train:
    """Trials whose first epoch ends once the file is there. Nested, so that it travels to the
    workers by value: they have no module of this name."""

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        with (assignment.folder / "nodes").open("a") as file:
            file.write(node_id() + "\n")
        while not until.exists():
            time.sleep(0.1)
        for epoch in range(assignment.start_epoch + 1, EPOCHS + 1):
            report(EpochResult(epoch, 0.5))

    return train


def test_nodes_come_and_go(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """A node that joins gets trials; those of one that dies go on elsewhere, and nobody blames
    them."""
    study, go = make_study(small_space), tmp_path / "go"
    first = next(iter(nodes.worker_nodes))
    joined: list[str] = []

    class Events(StopSignal):
        def due(self) -> bool:
            there = where(tmp_path)
            if not joined and there:
                joined.append(nodes.add_node(num_cpus=1, object_store_memory=10**8).node_id)
            if len(there) == 2 and first in nodes.worker_nodes:
                nodes.remove_node(first, allow_graceful=False)
            if seen.interruptions:
                go.touch()
            return super().due()

    seen, said, stop = Seen(), list[str](), Events(240)
    controller = controller_of(
        study, small_space, EPOCHS, seen, options=ControllerOptions(trials=4)
    )
    capacity = find_capacity(TrialResources(1), notify=said.append)
    run_trials(
        controller,
        waiting(go),
        TuneRun(capacity=capacity, epoch_timeout=600, folder=tmp_path, stop=stop),
    )
    assert go.exists() and not stop.reason
    assert [one.state for one in study.trials] == [TrialState.COMPLETE] * 4
    ((interrupted, reason),) = seen.interruptions
    assert interrupted == 0 and "node is gone" in reason
    assert where(tmp_path)[0] == [first.node_id, joined[0]], "it went on elsewhere"
    assert "the cluster has room for 2 trials at once, not 1" in said


def test_a_node_that_refuses_gets_no_more_trials(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    other = nodes.add_node(num_cpus=1, object_store_memory=10**8).node_id
    study, said, go = make_study(small_space), list[str](), tmp_path / "go"
    otherwise = waiting(go)

    def say(line: str) -> None:
        said.append(line)
        if "takes no part" in line:
            go.touch()

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        if node_id() == other:
            raise NodeError("its data differ")
        otherwise(assignment, report)

    seen = run(study, small_space, train, tmp_path, ControllerOptions(trials=6), say=say)
    assert [one.state for one in study.trials] == [TrialState.COMPLETE] * 6
    assert not any(other in ids for ids in where(tmp_path).values())
    assert 1 <= len(seen.interruptions) <= 2
    assert all("its data differ" in reason for _, reason in seen.interruptions)
    (line,) = [line for line in said if "takes no part" in line]
    assert line.endswith(": its data differ")


def test_a_node_that_does_not_see_the_storage_gets_no_trials(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """It would write checkpoints where nobody finds them again. Here a process stands for the node:
    to the worker that asks first, the folder is not there."""
    study, said = make_study(small_space), list[str]()
    nodes.add_node(num_cpus=1, object_store_memory=10**8)
    shared, away = tmp_path / "shared", tmp_path / "away"
    shared.mkdir()
    share_checkpoints(tmp_path, "s-1", shared)

    class Unmounted(StudyCallback):
        def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
            if number == 0:
                shared.rename(away)

    def say(line: str) -> None:
        said.append(line)
        if "takes no part" in line:
            away.rename(shared)

    controller = controller_of(
        study, small_space, EPOCHS, Unmounted(), options=ControllerOptions(trials=1)
    )
    capacity = find_capacity(TrialResources(1), 1, notify=say)
    train = waiting(tmp_path)
    run_trials(
        controller,
        train,
        TuneRun(
            capacity=capacity, epoch_timeout=600, folder=tmp_path, stop=StopSignal(120), notify=say
        ),
    )
    (line,) = [line for line in said if "takes no part" in line]
    assert line.endswith("mount the shared storage")
    assert [one.state for one in study.trials] == [TrialState.COMPLETE]
    assert not away.exists() and (shared / "studies/s-1/trials/0000").is_dir()


@contextlib.contextmanager
def read_only(folder: Path, address: str) -> Iterator[None]:
    """Another node of the cluster, to which a folder is read-only, as a mount that has broken down
    may be."""
    ray_start = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
    ray_start += [f"--address={address}", "--num-cpus=1", "--object-store-memory=100000000"]
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    started = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", f"{mount} && exec {shlex.join(ray_start)}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        started.terminate()
        started.wait(timeout=60)


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of a node's own needs root")
def test_a_node_whose_storage_has_broken_down_gets_no_trials(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """Trial after trial would fail there at once, while the others take their time."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("there can be no mount namespaces here")
    study, said = make_study(small_space), list[str]()
    shared = tmp_path / "shared"
    shared.mkdir()
    share_checkpoints(tmp_path, "s-1", shared)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        time.sleep(1)
        report(EpochResult(EPOCHS, 0.5))

    with read_only(shared, nodes.address):
        while sum(node["Alive"] for node in ray.nodes()) < 3:
            time.sleep(0.1)
        run(study, small_space, train, tmp_path, ControllerOptions(trials=8), say=said.append)
    (line,) = [line for line in said if "takes no part" in line]
    assert "Read-only file system" in line
    assert {one.state for one in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might ..."
        ),
        DeviceError("device 'cuda': this machine has no usable GPU; use cpu or auto"),
    ],
    ids=["breaks down", "is gone"],
)
def test_a_node_whose_gpu_is_broken_gets_no_trials(
    error: Exception,
    nodes: Cluster,
    make_study: MakeStudy,
    small_space: Space,
    tmp_path: Path,
) -> None:
    study, said = make_study(small_space), list[str]()
    before = {node["NodeID"] for node in ray.nodes()}
    nodes.add_node(num_cpus=1, object_store_memory=10**8)
    while not (new := {node["NodeID"] for node in ray.nodes()} - before):
        time.sleep(0.1)
    (bad,) = new

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        if node_id() == bad:
            raise error
        time.sleep(1)
        report(EpochResult(EPOCHS, 0.5))

    run(study, small_space, train, tmp_path, ControllerOptions(trials=8), say=said.append)
    (line,) = [line for line in said if "takes no part" in line]
    assert str(error).splitlines()[0] in line
    assert "might" not in line, "the first line says it"
    assert {one.state for one in study.trials} == {TrialState.COMPLETE}


def test_the_last_node_is_kept_whatever_its_gpu_says(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """It may be the trial's doing: that one fails, and the study goes on."""
    study, said = make_study(small_space), list[str]()

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        if assignment.number == 1:
            raise RuntimeError("CUDA error: device-side assert triggered")
        report(EpochResult(EPOCHS, 0.5))

    run(study, small_space, train, tmp_path, ControllerOptions(trials=3), say=said.append)
    states = [one.state for one in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].user_attrs[REASON].startswith("CUDA error: device-side assert triggered")
    assert not [line for line in said if "takes no part" in line]


def test_a_share_that_is_too_small_grows(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """Trial 1 needs half a GPU, trial 2 more than there is."""
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        with (assignment.folder / "shares").open("a") as file:
            file.write(f"{assignment.gpu_fraction:g} {os.environ['CUDA_VISIBLE_DEVICES']}\n")
        if assignment.gpu_fraction < {1: 0.5, 2: 2.0}.get(assignment.number, 0.0):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        report(EpochResult(EPOCHS, 0.5))

    seen = run(study, small_space, train, tmp_path, ControllerOptions(trials=4, gpus=0.25))
    states = [one.state for one in study.trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.FAIL, TrialState.COMPLETE]
    shares = [
        [line.split()[0] for line in (tmp_path / f"trials/{n:04d}/shares").read_text().splitlines()]
        for n in range(4)
    ]
    assert shares == [["0.25"], ["0.25", "0.5"], ["0.25", "0.5", "1", "1", "1"], ["0.25"]]
    assert (1, "out of GPU memory with 0.25 of a GPU: it goes on with 0.5") in seen.interruptions
    assert study.trials[2].user_attrs[REASON].startswith("out of GPU memory: 3 times in a row")
    assert ray.cluster_resources()["GPU"] == 1


def test_a_node_that_joins_is_used_however_short_the_trials(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """They end faster than a worker starts: each time, a worker that is there already would take
    the trial that the new node's worker is being started for."""
    study, joined, since = make_study(small_space), list[str](), list[float]()

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        (assignment.folder / "nodes").write_text(node_id())
        time.sleep(0.3)
        report(EpochResult(EPOCHS, 0.5))

    class Events(StopSignal):
        def due(self) -> bool:
            there = where(tmp_path)
            if not joined and len(there) > 3:
                joined.append(nodes.add_node(num_cpus=1, object_store_memory=10**8).node_id)
                since.append(time.monotonic())
            if joined and joined in there.values():
                self.finish("the new node is used")
            return super().due()

    stop = Events(120)
    controller = controller_of(study, small_space, EPOCHS, options=ControllerOptions(trials=1000))
    capacity = find_capacity(TrialResources(1))
    run_trials(
        controller, train, TuneRun(capacity=capacity, epoch_timeout=600, folder=tmp_path, stop=stop)
    )
    assert stop.reason == "the new node is used"
    assert time.monotonic() - since[0] < 60


def test_a_trial_that_needs_more_of_a_gpu_gets_its_turn(
    nodes: Cluster, make_study: MakeStudy, small_space: Space, tmp_path: Path
) -> None:
    """Its neighbours' workers would else go on with new trials, and never leave room for it."""
    nodes.add_node(num_cpus=4, num_gpus=1, object_store_memory=10**8)
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    study = make_study(small_space)

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        with (assignment.folder / "shares").open("a") as file:
            file.write(f"{assignment.gpu_fraction:g}\n")
        time.sleep(0.3)
        if assignment.number == 5 and assignment.gpu_fraction < 0.5:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        report(EpochResult(EPOCHS, 0.5))

    class Events(StopSignal):
        def due(self) -> bool:
            file = tmp_path / "trials" / "0005" / "shares"
            if file.exists() and file.read_text().split() == ["0.25", "0.5"]:
                self.finish("it has its turn")
            return super().due()

    stop = Events(60)
    controller = controller_of(
        study, small_space, EPOCHS, options=ControllerOptions(trials=1000, gpus=0.25)
    )
    capacity = find_capacity(TrialResources(1, 0.25))
    run_trials(
        controller, train, TuneRun(capacity=capacity, epoch_timeout=600, folder=tmp_path, stop=stop)
    )
    assert stop.reason == "it has its turn"
