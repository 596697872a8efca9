"""How many trials are put on a GPU. The probe itself needs one: it runs where there is one."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from fdan import device as runtime
from fdan.data.split import SplitConfig, split
from fdan.errors import DeviceError
from fdan.run_config import FEATURES
from search.cli.main import parse
from search.config.spec import resolve
from search.pipeline import decide_device
from search.planning.gpu_share import _data_bytes, _largest_share, find_gpu_share
from search.selection.winner import StudyData
from search.study.stopping import StopSignal
from search.worker.data import WorkerData, _open_task

pytestmark = pytest.mark.long

GIB = 2**30


@pytest.mark.parametrize(
    ("needed", "available", "limit", "expected"),
    [
        (3 * GIB, 80 * GIB, 99, 0.04),
        (3 * GIB, 80 * GIB, 6, 0.1666),
        (79 * GIB, 80 * GIB, 6, 1.0),
        (90 * GIB, 80 * GIB, 6, 1.0),
        (3 * GIB, 80 * GIB, 0, 1.0),
    ],
)
def test_the_share(needed: int, available: int, limit: int, expected: float) -> None:
    share = _largest_share(needed, available, limit)
    assert share == expected
    assert share == 1.0 or int(1 / share) * needed <= available


def test_the_data_that_a_trial_has_on_its_gpu(work: WorkerData) -> None:
    task = _open_task(work, print)
    stores = (*task.acoustic, *task.visual)
    images = sum(len(store) for store in stores)
    small = {"backbone": "resnet18", "weights": "none"}
    frozen = _data_bytes(task, {**small, "tuning": "frozen"})
    assert frozen == images * FEATURES["resnet18"] * 4
    maps = _data_bytes(task, {**small, "tuning": "last"})
    assert maps == images * 2 * 2 * 256 * 4
    full = _data_bytes(task, {**small, "tuning": "full"})
    assert full == sum(store.images.nbytes for store in stores)


def test_without_a_gpu_there_is_nothing_to_share(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = ["--gpus-per-trial", "auto", "--runs", str(tmp_path)]
    spec = resolve(parse(words).options)
    assert spec.per_trial.gpus == 0
    assert not spec.gpu_share_is_open


def test_what_a_cluster_has_is_remembered(nodes: Cluster, tmp_path: Path) -> None:
    """The next start may find other nodes, and goes on as the study was begun."""
    words = ["--address", nodes.address, "--runs", str(tmp_path)]
    open_spec = resolve(parse(words).options)
    assert open_spec.device_is_open and open_spec.per_trial.gpus == 0
    with_gpu = decide_device(open_spec, print)
    assert with_gpu.arguments == [*words, "--device", "cuda"] and with_gpu.per_trial.gpus == 1
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    while ray.cluster_resources().get("GPU"):
        time.sleep(0.1)
    without = decide_device(open_spec, print)
    assert without.arguments == [*words, "--device", "cpu"] and without.per_trial.gpus == 0
    words += ["--gpus-per-trial", "0.5"]
    assert not resolve(parse(words).options).device_is_open


@pytest.mark.skipif(torch.cuda.is_available(), reason="the node's GPU must be a stand-in")
def test_a_probe_that_fails_is_one_line(nodes: Cluster, tmp_path: Path, work: WorkerData) -> None:
    """The node says that it has a GPU, and has none."""
    with pytest.raises(DeviceError, match=r"^--gpus-per-trial auto: the dearest .*no usable GPU"):
        probe(tmp_path, work, StopSignal(), nodes.address)


def test_a_stop_ends_the_wait_for_a_gpu(nodes: Cluster, tmp_path: Path, work: WorkerData) -> None:
    """Ctrl-C while the study waits for a GPU."""
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    stop = StopSignal()
    stop.request("stopped by the user", 130)
    assert probe(tmp_path, work, stop, nodes.address) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")
def test_a_bound_holds() -> None:
    whole = torch.cuda.get_device_properties(0).total_memory
    runtime.limit_gpu_memory(0.2)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(int(0.25 * whole), dtype=torch.uint8, device="cuda")
    finally:
        runtime.limit_gpu_memory(1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")
def test_the_probe(tmp_path: Path, work: WorkerData) -> None:
    share = probe(tmp_path, work, StopSignal())
    assert share is not None and 0 < share <= 1


def probe(folder: Path, work: WorkerData, stop: StopSignal, address: str = "local") -> float | None:
    small = ["--backbone", "resnet18", "--weights", "none", "--tuning", "full", "--device", "cuda"]
    words = ["--gpus-per-trial", "auto", "--address", address, "--runs", str(folder), *small]
    task = _open_task(work, print)
    parts = split(task, SplitConfig.from_mapping(work.split))
    spec, study = resolve(parse(words).options), optuna.create_study()
    return find_gpu_share(StudyData(spec, study, task, parts, folder, work, (), {}), stop)
