"""A trial inside a worker: what another worker goes on from, to the last bit, and who gives way.

Training is real, of a small corpus. A worker's death is an exception in its report here, which
leaves the trial's folder as a death between two writes does; test_driver.py kills processes.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fdan import device as runtime
from fdan.lock import Lock, lock_owner
from fdan.training.checkpoint import Checkpoint
from search.study.active_trials import ActiveTrial
from search.study.resume import unreported_epochs
from search.worker import failures, messages, trainable, training
from search.worker.data import WorkerData
from search.worker.messages import ASSIGNMENTS, MESSAGE, EpochResult, TrialAssignment
from search.worker.trainable import TrialContext, WorkerSetup, make_trainable
from search.worker.training import make_trainer
from search.worker.trial_folder import CHECKPOINT, EPOCH_LOG, read_epoch_log, trial_folder

ROOT = Path(__file__).parents[3]
EPOCHS = 6
PARAMS = {
    "alpha": 0.01,
    "decay": 1e-4,
    "layers": 1,
    "kernels": 5,
    "ratio": 2.0,
    "scale": 1.0,
    "lr": 0.01,
}


class Died(BaseException):
    """A worker's end: nothing of ours catches it."""


def run(
    work: WorkerData, folder: Path, after: int = 0, until: int = EPOCHS, **params: float
) -> dict[int, EpochResult]:
    """Train in `folder` and die while reporting epoch `until`, or come to the end; what the
    driver heard."""
    heard: dict[int, EpochResult] = {}

    def report(told: EpochResult) -> None:
        if told.epoch == until < EPOCHS:
            raise Died
        assert told.epoch not in heard
        heard[told.epoch] = told

    folder.mkdir(parents=True, exist_ok=True)
    assignment = TrialContext(3, {**PARAMS, **params}, after, EPOCHS, folder=folder)
    try:
        make_trainer(work)(assignment, report)
    except Died:
        assert until < EPOCHS
    return heard


def same(reports: dict[int, EpochResult]) -> dict[int, EpochResult]:
    """Without the seconds, which no two trainings share."""
    return {
        epoch: EpochResult(
            epoch,
            report.value,
            {name: v for name, v in report.metrics.items() if name != "time/epoch_s"},
            report.confusion,
        )
        for epoch, report in reports.items()
    }


def equal(one: Path, other: Path) -> None:
    """Two trials' checkpoints, to the last bit."""
    a, b = Checkpoint.load(one / CHECKPOINT), Checkpoint.load(other / CHECKPOINT)
    assert (a.run, a.epoch, a.step, a.history, a.data) == (
        b.run,
        b.epoch,
        b.step,
        b.history,
        b.data,
    )
    assert a.tensors.keys() == b.tensors.keys()
    assert any(name.startswith("momentum.") for name in a.tensors)
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name


@pytest.fixture(scope="module")
def whole(
    work: WorkerData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, EpochResult]]:
    """A training that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    heard = run(work, folder)
    assert list(heard) == list(range(1, EPOCHS + 1))
    assert len({report.metrics["train/loss"] for report in heard.values()}) == EPOCHS
    assert read_epoch_log(folder) == heard
    return folder, same(heard)


Whole = tuple[Path, dict[int, EpochResult]]


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each epoch, however short."""
    monkeypatch.setattr(training, "_CHECKPOINT_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("stops", [(1,), (4,), (2, 2, 3, 5)], ids=str)
def test_it_goes_on_as_if_it_had_not_stopped(
    stops: tuple[int, ...], work: WorkerData, whole: Whole, tmp_path: Path
) -> None:
    """Deaths while an epoch is on its way to the driver: trained, written down, not heard."""
    after, heard = 0, dict[int, EpochResult]()
    for stop in (*stops, EPOCHS):
        now = run(work, tmp_path, after, stop)
        assert list(now) == list(range(after + 1, max(after, stop - (stop < EPOCHS)) + 1))
        heard |= now
        after = max(heard, default=0)
    assert same(heard) == whole[1]
    equal(tmp_path, whole[0])
    assert same(read_epoch_log(tmp_path)) == whole[1]


@pytest.mark.usefixtures("every_epoch")
def test_epochs_that_were_trained_unheard_are_reported_without_training(
    work: WorkerData, whole: Whole, tmp_path: Path
) -> None:
    """The driver was gone for three epochs. What it hears then is what was written, seconds and
    all; the checkpoint's epoch is not trained again."""
    run(work, tmp_path, until=5)
    written = read_epoch_log(tmp_path)
    assert Checkpoint.load(tmp_path / CHECKPOINT).epoch == 5
    heard = run(work, tmp_path, after=2)
    assert list(heard) == [3, 4, 5, 6]
    assert [heard[epoch] for epoch in (3, 4, 5)] == [written[epoch] for epoch in (3, 4, 5)]
    equal(tmp_path, whole[0])


def test_epochs_after_the_newest_checkpoint_are_trained_again(
    work: WorkerData, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training, "_CHECKPOINT_INTERVAL_S", float("inf")
    )  # after the first epoch and the last one
    heard = run(work, tmp_path, until=5)
    assert Checkpoint.load(tmp_path / CHECKPOINT).epoch == 1
    again = run(work, tmp_path, after=4)
    assert list(again) == [2, 3, 4, 5, 6], "those that are known are passed over by the controller"
    assert same(heard | again) == whole[1]
    assert same({epoch: again[epoch] for epoch in (2, 3, 4)}) == {
        epoch: whole[1][epoch] for epoch in (2, 3, 4)
    }
    equal(tmp_path, whole[0])


@pytest.mark.usefixtures("every_epoch")
def test_a_trial_that_had_only_to_be_closed_trains_nothing(
    work: WorkerData, tmp_path: Path
) -> None:
    run(work, tmp_path)
    written = (tmp_path / EPOCH_LOG).read_bytes()
    assert run(work, tmp_path, after=EPOCHS) == {}
    assert (tmp_path / EPOCH_LOG).read_bytes() == written


def test_a_machine_without_memory_is_not_the_trials_fault() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55, dtype=torch.uint8)

    def meaning(error: Exception) -> messages.WorkerMessage | None:
        return failures._machine_failure(error, failures.Worker("node", "address", ""))

    no_memory = (MemoryError(), OSError(errno.ENOMEM, "fork"), BlockingIOError(12, "no memory"))
    for error in (raised.value, *no_memory):
        assert meaning(error) == messages.WorkerLost("out of memory")
    for other in (RuntimeError("shapes differ"), OSError(errno.ENOSPC, "full"), ValueError()):
        assert meaning(other) is None
    for text in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling cublas"):
        assert meaning(RuntimeError(text)) == messages.OutOfGpuMemory()
    fault = RuntimeError("CUDA error: device-side assert triggered")
    assert isinstance(meaning(fault), messages.GpuFault)


@pytest.fixture(scope="module")
def stopped(work: WorkerData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that died in its fourth epoch, all checkpoints kept."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_CHECKPOINT_INTERVAL_S", 0.0)
        run(work, folder, until=4)
    return folder


def flip(folder: Path) -> None:
    (tensors,) = folder.glob("tensors-*.safetensors")
    held = bytearray(tensors.read_bytes())
    held[len(held) // 2] ^= 1
    tensors.write_bytes(held)


def cut(folder: Path) -> None:
    (tensors,) = folder.glob("tensors-*.safetensors")
    os.truncate(tensors, tensors.stat().st_size // 2)


def without_tensors(folder: Path) -> None:
    (tensors,) = folder.glob("tensors-*.safetensors")
    tensors.unlink()


def half_of_json(folder: Path) -> None:
    facts = folder / "checkpoint.json"
    os.truncate(facts, facts.stat().st_size // 2)


def only_partial(folder: Path) -> None:
    (tensors,) = folder.glob("tensors-*.safetensors")
    tensors.rename(folder / "tensors.77.partial")
    (folder / "checkpoint.json").rename(folder / "checkpoint.json.77.partial")


def without_log(folder: Path) -> None:
    (folder.parent / EPOCH_LOG).unlink()


def log_of_less(folder: Path) -> None:
    """A disk that kept the checkpoint and lost the log's end."""
    log = folder.parent / EPOCH_LOG
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))


DAMAGES = [flip, cut, without_tensors, half_of_json, only_partial, without_log, log_of_less]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_not_whole_is_begun_anew(
    damage: Callable[[Path], None], work: WorkerData, whole: Whole, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "trial")
    damage(tmp_path / "trial" / CHECKPOINT)
    heard = run(work, tmp_path / "trial", after=0)
    assert same(heard) == whole[1]
    equal(tmp_path / "trial", whole[0])
    assert same(read_epoch_log(tmp_path / "trial")) == whole[1]
    left = sorted(path.suffix for path in (tmp_path / "trial" / CHECKPOINT).iterdir())
    assert left in ([".json", ".safetensors"], [".json", ".partial", ".safetensors"])


def test_what_was_half_written_beside_a_whole_checkpoint_is_passed_over(
    work: WorkerData, whole: Whole, stopped: Path, tmp_path: Path
) -> None:
    """A worker killed while it saved the next one."""
    shutil.copytree(stopped, tmp_path / "trial")
    folder = tmp_path / "trial" / CHECKPOINT
    (tensors,) = folder.glob("tensors-*.safetensors")
    (folder / "tensors.77.partial").write_bytes(tensors.read_bytes()[:1000])
    (folder / "tensors-000005-00000000.safetensors").write_bytes(tensors.read_bytes()[:1000])
    with (tmp_path / "trial" / EPOCH_LOG).open("ab") as log:
        log.write(b'{"epoch": 5, "val')
    heard = run(work, tmp_path / "trial", after=3)
    assert list(heard) == [4, 5, 6]
    assert same(heard) == {epoch: whole[1][epoch] for epoch in (4, 5, 6)}
    equal(tmp_path / "trial", whole[0])


def test_a_checkpoint_of_other_settings_is_not_taken(
    work: WorkerData, whole: Whole, tmp_path: Path
) -> None:
    """A storage that was set back to a backup gives a number out again, with new settings."""
    run(work, tmp_path, until=4, lr=0.002)
    heard = run(work, tmp_path, after=0)
    assert same(heard) == whole[1]
    equal(tmp_path, whole[0])


def test_what_a_dead_worker_saved_is_known_without_another_one(
    work: WorkerData, whole: Whole, stopped: Path, tmp_path: Path
) -> None:
    folder = trial_folder(tmp_path, 3)

    def unreported(params: Mapping[str, Any], last: int) -> list[EpochResult]:
        results = [EpochResult(last, 0.5)] if last else []
        trial = ActiveTrial(3, 6, 0.0, params=params, results=results)
        return unreported_epochs(work, tmp_path, trial)

    assert unreported(PARAMS, 0) == []
    shutil.copytree(stopped, folder)
    found = {report.epoch: report for report in unreported(PARAMS, 1)}
    assert same(found) == {epoch: whole[1][epoch] for epoch in (2, 3, 4)}
    assert unreported(PARAMS, 4) == []
    assert unreported({**PARAMS, "lr": 0.002}, 0) == [], "another trial's"
    flip(folder / CHECKPOINT)
    assert unreported(PARAMS, 0) == [], "they are trained again"
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert unreported(PARAMS, 0) == []


# Who has the trial


HOLDER = """
import sys, time
from pathlib import Path
from typing import Any
from fdan.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(300)
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which has trial 3."""
    folder = trial_folder(tmp_path, 3)
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(folder / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def work_on(study: Path) -> list[int]:
    """As Ray calls it, for a trial that neither reports nor fails; the lock's owner meanwhile."""
    seen = []

    def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
        found = lock_owner(assignment.folder / "lock")
        assert found is not None
        seen.append(found.pid)

    config = {ASSIGNMENTS: (TrialAssignment(3, {}, 0, EPOCHS),)}
    make_trainable(train, WorkerSetup(study, 1))(config)
    return seen


def test_a_groups_folder_is_followed_whatever_umask_ray_has(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    modes = []

    def train(trial: TrialContext, report: Callable[[EpochResult], None]) -> None:
        (trial.folder / "checkpoint").mkdir()
        modes.extend((trial.folder / name).stat().st_mode for name in ("checkpoint", "lock"))

    trial_folder(tmp_path, 3).mkdir(parents=True)
    before = os.umask(0o022)
    try:
        config = {ASSIGNMENTS: (TrialAssignment(3, {}, 0, EPOCHS),)}
        make_trainable(train, WorkerSetup(tmp_path, 1))(config)
    finally:
        os.umask(before)
    folder, lock = modes
    assert folder & 0o070 == 0o070 and lock & 0o060 == 0o060


@pytest.mark.parametrize("asleep", [False, True], ids=["alive", "SIGSTOPped"])
def test_an_orphan_that_has_the_trial_is_ended(
    asleep: bool, held: subprocess.Popen[str], tmp_path: Path
) -> None:
    if asleep:
        held.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert work_on(tmp_path) == [os.getpid()]
    assert time.monotonic() - began < 5
    assert held.wait(5) == -signal.SIGKILL
    assert lock_owner(trial_folder(tmp_path, 3) / "lock") is None, "and let go of afterwards"


def test_a_dead_worker_has_nothing(held: subprocess.Popen[str], tmp_path: Path) -> None:
    held.kill()
    held.wait()
    began = time.monotonic()
    assert work_on(tmp_path) == [os.getpid()]
    assert time.monotonic() - began < 1


def test_only_who_has_the_trial_is_ended(
    held: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name in the file may be another process's by now."""
    monkeypatch.setattr(trainable, "_ORPHAN_S", 0.5)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(trainable.tune, "report", told.append)
    lock = trial_folder(tmp_path, 3) / "lock"
    written = lock.read_text()
    with subprocess.Popen(["sleep", "300"]) as bystander:
        try:
            lock.write_text(written.replace(str(held.pid), str(bystander.pid), 1))
            assert work_on(tmp_path) == []
            assert "is held by" in told[0][MESSAGE].reason
            assert (bystander.poll(), held.poll()) == (None, None)
        finally:
            bystander.kill()


@pytest.mark.parametrize("written", [True, False])
def test_a_lock_that_outlives_its_machine(
    written: bool, held: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS 3 keeps it for a node that is gone for good; its name may not have arrived."""
    monkeypatch.setattr(trainable, "_ORPHAN_S", 0.5)
    lock = trial_folder(tmp_path, 3) / "lock"
    pid, since, _ = lock.read_text().split()
    lock.write_text(f"{pid} {since} a-lost-node\n" if written else "")
    began = time.monotonic()
    assert work_on(tmp_path) == [os.getpid()]
    assert time.monotonic() - began > 0.5, "it may be cut off only, and train on for a while"
    assert held.poll() is None
    assert lock_owner(lock) is None, "and whoever comes next is not kept waiting"


def test_a_node_of_the_cluster_keeps_its_lock(
    held: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "_ORPHAN_S", 0.5)
    monkeypatch.setattr(trainable, "_hosts", lambda: {"another-node"})
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(trainable.tune, "report", told.append)
    lock = trial_folder(tmp_path, 3) / "lock"
    pid, since, _ = lock.read_text().split()
    lock.write_text(f"{pid} {since} another-node\n")
    assert work_on(tmp_path) == []
    assert "another-node" in told[0][MESSAGE].reason


def test_a_trial_s_share_of_a_gpu_is_a_bound(
    work: WorkerData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it holds: test_gpu_share.py, where there is a GPU."""
    bounds: list[float] = []
    monkeypatch.setattr(runtime, "limit_gpu_memory", bounds.append)
    for number, gpus in enumerate((0.0, 0.25, 1.0)):
        folder = trial_folder(tmp_path, number)
        folder.mkdir(parents=True)
        make_trainer(work)(TrialContext(number, PARAMS, 0, 1, gpus, folder=folder), lambda _: None)
    assert bounds == [0.25]


def test_another_trials_lock_is_nobodys_business(
    held: subprocess.Popen[str], tmp_path: Path
) -> None:
    folder = trial_folder(tmp_path, 4)
    folder.mkdir(parents=True)
    with Lock(folder / "lock"):
        assert work_on(tmp_path) == [os.getpid()]
    assert held.wait(5) == -signal.SIGKILL
