"""A step on a GPU: recorded as it is eagerly, without waiting, and in bfloat16 as in float32.

Where only torch, torchvision, safetensors, scikit-learn and pytest are installed:
python -m pytest -o addopts= tests/fdan/test_device_cuda.py
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fdan.machine import cuda_graph as capture
from fdan.machine.cuda_graph import Call, make_graphed, side_stream
from fdan.run_config import RunConfig
from fdan.training import train as training
from fdan.training.augment import DRAWS
from fdan.training.checkpoint import Checkpoint
from fdan.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from fdan.training.train import EpochReport, RunProgress, train
from fdan.training.training_data import TrainingData

Make = Callable[..., Any]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CUDA = torch.device("cuda", 0)
SETTINGS: list[dict[str, Any]] = [
    {"tuning": "frozen", "layers": 2, "alpha": 0.1, "batch": 9},
    {"tuning": "frozen", "layers": 0, "alpha": 0.0, "momentum": 0.0, "batch": 9},
    {"tuning": "full", "layers": 1, "alpha": 0.1, "batch": 9, "lr": 1e-4},
    {"tuning": "last", "layers": 1, "alpha": 0.1, "batch": 9, "lr": 1e-4},
]


@pytest.fixture(autouse=True)
def _true_float32() -> Iterator[None]:
    """What is not meant to be bfloat16 is not TF32 either."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each try to record, whether it did."""
    tried: list[bool] = []
    original = capture._CudaGraphs.record

    def record(self: Any, call: Call) -> Call:
        tried.append(False)
        replay = original(self, call)
        tried[-1] = True
        return replay

    monkeypatch.setattr(capture._CudaGraphs, "record", record)
    return tried


@contextmanager
def no_synchronisation() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "half_precision", lambda device: contextlib.nullcontext())


def eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "make_graphed", lambda step, device: step)


def told_by(
    run: RunConfig, data: TrainingData, **more: Any
) -> list[tuple[EpochReport, Checkpoint]]:
    told: list[tuple[EpochReport, Checkpoint]] = []
    train(run, data, lambda report, made: told.append((report, made())), device=CUDA, **more)
    return told


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    """Rounding differs from call to call. Through ten layers of batch normalisation it grows, in
    their gradients without bounds."""
    full = ours[0][1].run.model.tuning == "full"
    far = 1e-2 if full else 1e-3
    for (report, checkpoint), (its_report, its) in zip(ours, theirs, strict=True):
        for name in ("train/loss", "train/lmmd", "train/lr", "validation/loss"):
            assert report.metrics[name] == pytest.approx(its_report.metrics[name], rel=far), name
        for name, tensor in checkpoint.tensors.items():
            if not (full and name.startswith("momentum.")):
                torch.testing.assert_close(tensor, its.tensors[name], rtol=far, atol=far, msg=name)


def data_for(settings: dict[str, Any], frozen_data: Make, image_data: Make) -> Any:
    return image_data(acoustic=45) if settings["tuning"] == "full" else frozen_data()


@pytest.mark.parametrize("settings", SETTINGS)
def test_recorded_steps_are_the_steps(
    settings: dict[str, Any],
    frozen_data: Make,
    image_data: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
    recordings: list[bool],
) -> None:
    run, data = run_of(**settings), data_for(settings, frozen_data, image_data)
    assert len(data.acoustic_train) % run.training.batch > 1, "a last batch of another size"
    in_float32(monkeypatch)
    ours = told_by(run, data)
    assert recordings == [True, True]
    eagerly(monkeypatch)
    assert_close(ours, told_by(run, data))


@pytest.mark.parametrize("settings", SETTINGS)
def test_going_on_is_as_if_it_had_not_stopped(
    settings: dict[str, Any],
    frozen_data: Make,
    image_data: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    run, data = run_of(**settings), data_for(settings, frozen_data, image_data)
    in_float32(monkeypatch)
    whole = told_by(run, data)
    whole[1][1].save(tmp_path)
    rest = told_by(run, data, resume=Checkpoint.load(tmp_path))
    assert_close(rest, whole[2:])


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_waits_for_nothing(
    recorded: bool, settings: dict[str, Any], frozen_data: Make, image_data: Make, run_of: Make
) -> None:
    run = run_of(**settings)
    data = data_for(settings, frozen_data, image_data).to(CUDA)
    network = RunProgress(run, data, None).start_network()[0].to(CUDA).train()
    optimizer = make_optimizer(network, run.training, 0, {})
    one_step = training._make_step(network, optimizer, run, data)
    batch: list[Tensor] = []
    for modality in ("visual", "acoustic"):
        batch += [torch.arange(7, device=CUDA), torch.arange(7, device=CUDA)]
        batch += [torch.rand(7, DRAWS[modality], device=CUDA)]
    with side_stream(CUDA):
        if recorded:
            one_step = make_graphed(one_step, CUDA)
            for _ in range(3):  # to its recording
                one_step(*batch)
            assert isinstance(one_step, capture.GraphedFunction) and len(one_step._recorded) == 1
        else:
            one_step(*batch)
        torch.cuda.synchronize()
        with no_synchronisation():
            for number in range(3):
                set_learning_rate(optimizer, learning_rate_factor(run.training, number, 100))
                losses = one_step(*batch)
        assert torch.isfinite(losses).all()


def test_that_test_sees_who_waits() -> None:
    with no_synchronisation(), pytest.raises(RuntimeError, match="called a synchronizing"):
        torch.ones(1, device=CUDA).item()


def test_a_recording_that_fails_is_said_and_training_goes_on(
    frozen_data: Make,
    run_of: Make,
    monkeypatch: pytest.MonkeyPatch,
    recordings: list[bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, data = run_of(batch=9), frozen_data()
    ours = told_by(run, data)
    assert recordings == [True, True]
    original = training.fdan_loss

    def looking(out: Any, *rest: Any) -> Any:
        out.logits_a.sum().item()  # no recording can
        return original(out, *rest)

    capture._warn.cache_clear()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(training, "fdan_loss", looking)
        assert_close(told_by(run, data), ours)
    assert recordings == [True, True, False]
    (said,) = caplog.records
    assert said.message.startswith("training steps are not recorded as a CUDA graph")
    assert "captur" in said.message.partition(": ")[2]
    # Nothing is left of it: the next run's are recorded, and memory is given back.
    assert_close(told_by(run, data), ours)
    assert recordings == [True, True, False, True, True]
    torch.cuda.empty_cache()


def test_runs_leave_no_memory_behind(image_data: Make, run_of: Make) -> None:
    run, data = run_of(tuning="full", batch=9, epochs=4), image_data(acoustic=45)
    left = []
    for _ in range(4):
        told_by(run, data)
        gc.collect()
        torch.cuda.empty_cache()
        left.append(torch.cuda.memory_reserved())
    assert left[-1] <= left[0]


def test_bfloat16_trains_as_float32_does(
    image_data: Make, run_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tuning="full", batch=16, epochs=6, alpha=0.01, lr=3e-3, augment=False)
    data = image_data(acoustic=168, visual=168)
    ours = told_by(run, data)
    assert {t.dtype for t in ours[-1][1].tensors.values()} == {torch.float32, torch.int64}
    in_float32(monkeypatch)
    exact = told_by(run, data)
    for (report, _), (its, _) in zip(ours, exact, strict=True):
        assert report.metrics["train/loss"] == pytest.approx(its.metrics["train/loss"], rel=0.1)
    assert [r.metrics["train/loss"] for r, _ in ours] != [r.metrics["train/loss"] for r, _ in exact]
    assert exact[-1][0].metrics["train/loss"] < 0.7 * exact[0][0].metrics["train/loss"]
