"""One training run: it learns, repeats to the last bit, goes on to the last bit, and says no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fdan import device as runtime
from fdan.errors import ConfigError, DataError, DeviceError
from fdan.model.backbones import build_backbone
from fdan.run_config import RunConfig, TrainConfig
from fdan.training import batches
from fdan.training.augment import DRAWS, augment, augment_maps, mix
from fdan.training.averaging import WeightAverage
from fdan.training.checkpoint import Checkpoint
from fdan.training.optimizer import learning_rate_factor
from fdan.training.train import Diverged, EpochReport, RunProgress, train
from fdan.training.training_data import Domain, TrainingData
from fdan.training.validate import score_checkpoint

Make = Callable[..., Any]


def collect(run: RunConfig, data: TrainingData, **more: Any) -> tuple[Checkpoint, list[Any]]:
    """The last checkpoint and each epoch's report and checkpoint."""
    seen: list[Any] = []
    last = train(run, data, lambda report, checkpoint: seen.append((report, checkpoint())), **more)
    return last, seen


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    assert (one.epoch, one.step, one.history) == (other.epoch, other.step, other.history)


def assert_same_report(one: EpochReport, other: EpochReport) -> None:
    assert one.epoch == other.epoch
    np.testing.assert_array_equal(one.confusion, other.confusion)
    times = "time/epoch_s"
    assert {k: v for k, v in one.metrics.items() if k != times} == {
        k: v for k, v in other.metrics.items() if k != times
    }


def test_it_learns_what_is_there_to_learn(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data(signal=0.3, acoustic=210)
    last, seen = collect(run_of(epochs=12), data)
    first, final = seen[0][0].metrics, seen[-1][0].metrics
    assert final["train/loss"] < first["train/loss"]
    assert last.value > 0.7
    assert set(final) == {
        "train/loss",
        "train/loss_acoustic",
        "train/loss_visual",
        "train/lmmd",
        "train/lr",
        "validation/uar",
        "validation/war",
        "validation/wf1",
        "validation/loss",
        "value",
        "time/epoch_s",
    }
    assert seen[-1][0].confusion.sum() == len(data.acoustic_validation)


RECIPE = {
    **{"optimizer": "adamw", "schedule": "one-cycle", "decay": 0.05, "smoothing": 0.1},
    **{"mixup": 0.2, "dropout": 0.3, "average": 0.9, "backbone_rate": 0.3, "speech_moves": True},
}


def test_alpha_narrows_the_gap_between_modalities(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data(signal=0.3)
    without, with_it = (
        collect(run_of(epochs=10, alpha=alpha), data)[1][-1][0].metrics["train/lmmd"]
        for alpha in (0.0, 0.1)
    )
    assert with_it < 0.85 * without


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "frozen", "layers": 2},
        {"tuning": "frozen", "layers": 0, "alpha": 0.0, "context": "none"},
        {"tuning": "full", "epochs": 2, "batch": 5},
        {"tuning": "frozen", "layers": 1, "epochs": 4, **RECIPE},
        {"tuning": "full", "epochs": 2, "batch": 5, **RECIPE},
        {"tuning": "full", "epochs": 2, "batch": 5, "system": "speech", **RECIPE},
        {"tuning": "last", "epochs": 3, "batch": 5},
        {"tuning": "last", "epochs": 2, "batch": 5, **RECIPE},
        {"tuning": "last", "epochs": 2, "batch": 5, "system": "speech", **RECIPE},
    ],
)
def test_going_on_equals_never_having_stopped(
    settings: dict[str, Any], data_of: Make, run_of: Make, tmp_path: Path
) -> None:
    data = data_of(settings["tuning"])
    run = run_of(**settings)
    whole, seen = collect(run, data)
    again, _ = collect(run, data)
    assert_same(whole, again)

    for stop in range(1, run.training.epochs):
        seen[stop - 1][1].save(tmp_path / "kept")
        torch.manual_seed(stop)  # the global generator is of no account
        resumed, rest = collect(run, data, resume=Checkpoint.load(tmp_path / "kept"))
        assert_same(resumed, whole)
        for (report, _), (expected, _) in zip(rest, seen[stop:], strict=True):
            assert_same_report(report, expected)


def test_a_longer_run_begins_as_the_shorter_one(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    short, _ = collect(run_of(epochs=2), data)
    long, _ = collect(run_of(epochs=4), data)
    assert_same(collect(run_of(epochs=4), data, resume=short)[0], long)
    # A checkpoint is as it was, whoever went on from it.
    assert_same(short, collect(run_of(epochs=2), data)[0])
    assert collect(run_of(epochs=2), data, resume=short) == (short, [])


def test_one_cycle_is_planned_for_its_epochs(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    short, _ = collect(run_of(epochs=2, schedule="one-cycle"), data)
    with pytest.raises(ConfigError, match="has epochs = 2, this run has 4"):
        collect(run_of(epochs=4, schedule="one-cycle"), data, resume=short)


def test_speech_alone_never_looks_at_faces(image_data: Make, run_of: Make) -> None:
    data = image_data()
    run = run_of(tuning="full", system="speech", epochs=1, layers=2, alpha=0.5)
    last, ((epoch, _),) = collect(run, data)
    assert run.model.layers == 0
    assert {k: epoch.metrics[f"train/{k}"] for k in ("loss_visual", "lmmd")} == {
        "loss_visual": 0.0,
        "lmmd": 0.0,
    }
    assert not any("visual" in name for name in last.tensors)
    blind = replace(data, visual=replace(data.visual, arrays=(data.visual.arrays[0] * 0,)))
    assert_same(collect(run, blind)[0], last)


def test_what_is_tested_is_the_average(frozen_data: Make, run_of: Make) -> None:
    """Of weights and their buffers, from the first step on."""
    data = frozen_data()
    run = run_of(epochs=2, average=0.9)
    last, _ = collect(run, data)
    plain, _ = collect(run_of(epochs=2), data)
    name = "head.classifier.weight"
    assert torch.equal(last.tensors[f"trained.{name}"], plain.tensors[f"model.{name}"])
    first = RunProgress(run, data, None).start_network()[0].state_dict()[name]
    average, weights = first.clone(), []
    network = RunProgress(run, data, None).start_network()[0]
    held = WeightAverage(network, 0.9)
    for step in range(12):
        with torch.no_grad():
            network.head.classifier.weight.add_(0.1)
        weights.append(network.head.classifier.weight.clone())
        held.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights[-1]
    torch.testing.assert_close(held.network.state_dict()[name], average)


def test_checkpoints_of_earlier_epochs_stay_as_they_were(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    _, seen = collect(run_of(epochs=3), data)
    first, _ = collect(run_of(epochs=1), data)
    assert_same(seen[0][1], first)


def test_seeds_differ_and_the_global_generator_is_left_alone(
    frozen_data: Make, run_of: Make
) -> None:
    data = frozen_data()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, _ = collect(run_of(seed=1, epochs=1), data)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()
    other, _ = collect(run_of(seed=2, epochs=1), data)
    name = "model.head.classifier.weight"
    assert not torch.equal(one.tensors[name], other.tensors[name])


def test_score_repeats_the_last_validation(data_of: Make, run_of: Make) -> None:
    for data, settings in (
        (data_of("frozen"), {}),
        (data_of("last"), {"tuning": "last", "epochs": 1, "batch": 5}),
        (data_of("full"), {"tuning": "full", "epochs": 1, "batch": 5}),
    ):
        for context in ("bank", "none"):
            last, seen = collect(run_of(**settings, context=context), data)
            found = score_checkpoint(last, data, data.acoustic_validation)
            np.testing.assert_array_equal(found.confusion, seen[-1][0].confusion)
            assert found.uar == pytest.approx(seen[-1][0].metrics["validation/uar"])
            assert found.loss == pytest.approx(seen[-1][0].metrics["validation/loss"], abs=1e-5)
            assert found.probabilities.shape == (len(data.acoustic_validation), 7)
            np.testing.assert_allclose(found.probabilities.sum(1), 1)
            # Speech alone, and each sample for itself.
            one = score_checkpoint(last, data, data.acoustic_validation[3:4])
            np.testing.assert_allclose(one.probabilities[0], found.probabilities[3], atol=1e-5)


def test_the_validation_part_takes_no_part_in_training(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    spoilt = data.acoustic.arrays[0].clone()
    spoilt[data.acoustic_validation] = 1e6
    other = replace(data, acoustic=replace(data.acoustic, arrays=(spoilt,)))
    one, two = (collect(run_of(), d)[0] for d in (data, other))
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, two.tensors[name]), name


@pytest.mark.parametrize(
    ("tuning", "first"), [("full", "conv1.weight"), ("last", "layer4.0.conv1.weight")]
)
def test_what_is_tuned_is_trained_at_a_tenth(
    tuning: str, first: str, data_of: Make, run_of: Make
) -> None:
    # After one step without decay a weight has moved by its rate times its momentum buffer.
    data = data_of(tuning, acoustic=9, visual=9)
    settings = {"tuning": tuning, "epochs": 1, "batch": 16, "decay": 0.0, "augment": False}
    slow, fast = (collect(run_of(**settings, lr=lr), data)[0] for lr in (0.01, 0.03))
    assert slow.step == 1
    for name, factor in (
        ("head.classifier.weight", 1.0),
        (f"backbones.visual.body.{first}", 0.1),
        ("backbones.acoustic.body.layer4.1.conv2.weight", 0.1),
    ):
        moved = slow.tensors[f"model.{name}"] - fast.tensors[f"model.{name}"]
        expected = 0.02 * factor * slow.tensors[f"momentum.{name}"]
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-7)


def test_of_the_backbones_only_the_last_stage_is_trained(map_data: Make, run_of: Make) -> None:
    data = map_data()
    start = RunProgress(run_of(tuning="last"), data, None).start_network()[0].state_dict()
    last, _ = collect(run_of(tuning="last", epochs=1, batch=7), data)
    trained = {name: z for name, z in last.tensors.items() if name.startswith("model.backbones.")}
    assert {name.split(".")[2] for name in trained} == {"visual", "acoustic"}
    assert {name.split(".")[4] for name in trained} == {"layer4"}
    weights = build_backbone(data.weights).state_dict()
    for name, tensor in trained.items():
        key = name.split(".", 3)[3]
        assert torch.equal(start[name.removeprefix("model.")], weights[key]), name
        assert not torch.equal(tensor, weights[key]), name


@pytest.mark.parametrize("tuning", ["frozen", "last", "full"])
def test_a_loss_that_is_not_finite_ends_the_run(tuning: str, data_of: Make, run_of: Make) -> None:
    data = data_of(tuning)
    with pytest.raises(Diverged, match=r"is (nan|inf) at step \d+ of \d+ in epoch \d"):
        collect(run_of(tuning=tuning, lr=1e9, epochs=3, batch=5), data)


def test_other_settings_or_data_cannot_go_on(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    last, _ = collect(run_of(epochs=1), data)
    with pytest.raises(ConfigError, match=r"has lr = 0.01, this run has 0.02"):
        collect(run_of(lr=0.02, epochs=2), data, resume=last)
    with pytest.raises(ConfigError, match="other data"):
        collect(run_of(epochs=2), replace(data, fingerprint="another"), resume=last)


def test_devices_that_are_not_there(frozen_data: Make, run_of: Make) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="no usable GPU; use cpu or auto"):
            collect(run_of(), frozen_data(), device="cuda")
        assert runtime.choose_device("auto") == torch.device("cpu")
    for name in ("gpu", "cuda:x", "meta", "cuda:99"):
        with pytest.raises(DeviceError, match=name):
            runtime.choose_device(name)


@pytest.mark.parametrize("part", ["visual_train", "acoustic_train", "acoustic_validation"])
def test_an_empty_part_is_refused(part: str, frozen_data: Make) -> None:
    with pytest.raises(DataError, match=f"{part.replace('_', ' ')} part has 0"):
        replace(frozen_data(), **{part: np.array([], dtype=np.int64)})


def test_the_schedule_is_that_of_the_released_code() -> None:
    assert learning_rate_factor(TrainConfig(), 0, 5) == 1.0
    assert learning_rate_factor(TrainConfig(), 1000, 5) == pytest.approx(1.3**-0.75)


def test_one_cycle_rises_for_a_tenth_and_falls_to_nothing() -> None:
    one_cycle = TrainConfig(schedule="one-cycle")
    factors = [learning_rate_factor(one_cycle, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True) and 0 < factors[-1] < 0.001


def test_settings_are_flat_and_checked() -> None:
    run = RunConfig.from_mapping({"alpha": 0.01, "layers": 2, "kernels": 3})
    assert (run.training.alpha, run.model.layers, run.kernel.kernels) == (0.01, 2, 3)
    assert RunConfig.from_mapping(run.as_dict()) == run
    fields = [len(part.as_dict()) for part in (run.model, run.kernel, run.training)]
    assert len(run.as_dict()) == sum(fields)  # no name twice
    with pytest.raises(ConfigError, match="did you mean 'momentum'"):
        RunConfig.from_mapping({"momentun": 0.9})


# Batches


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(2, (2,)), (7, (7,)), (8, (8,)), (9, (9,)), (10, (8, 2)), (16, (8, 8)), (17, (8, 9))],
)
def test_sizes_of_batches(samples: int, expected: tuple[int, ...]) -> None:
    assert batches.batch_sizes(samples, 8) == expected


def test_an_epoch_is_one_pass_over_speech_and_faces_run_on() -> None:
    faces, speech = np.arange(100, 111), np.arange(30)
    data: Any = SimpleNamespace(visual_train=faces, acoustic_train=speech)
    training = TrainConfig(batch=8, seed=3)
    plans = [batches.plan_epoch(data, training, epoch) for epoch in (1, 2, 3)]
    for plan in plans:
        assert sorted(plan["acoustic"].samples) == list(speech)
        assert plan["acoustic"].sizes == [8, 8, 8, 6] and plan["visual"].sizes == [8] * 4
        assert len(plan["visual"].samples) == 32
    assert list(plans[0]["acoustic"].samples) != list(plans[1]["acoustic"].samples)
    row = np.concatenate([plan["visual"].samples for plan in plans])
    for start in range(0, 88, 11):  # 96 samples hold eight whole passes
        assert sorted(row[start : start + 11]) == list(faces)
    again = batches.plan_epoch(data, training, 2)
    for modality in ("acoustic", "visual"):
        for expected, found in zip(plans[1][modality], again[modality], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_balanced_bank() -> None:
    labels = np.array([0] * 20 + [1] * 2 + [5] * 7)
    train = np.arange(1, 29)
    chosen = batches._balanced_sample(train, labels, 4, seed=0, modality=0)
    assert np.bincount(labels[chosen], minlength=7).tolist() == [4, 2, 0, 0, 0, 4, 0]
    assert set(chosen) <= set(train) and len(set(chosen)) == len(chosen)
    other = batches._balanced_sample(train, labels, 4, seed=1, modality=0)
    assert set(chosen) != set(other)


# Domains and augmentation


def test_several_stores_are_one_row_of_samples() -> None:
    random = np.random.default_rng(0)
    stores = [random.integers(0, 255, (n, 4, 4, 1), dtype=np.uint8) for n in (3, 1, 5)]
    for store in stores:
        store.flags.writeable = False
    domain = Domain.from_arrays(stores, np.zeros(9, dtype=np.int64))
    index = np.array([8, 0, 3, 4, 2, 2])
    np.testing.assert_array_equal(domain.select(index), np.concatenate(stores)[index])
    one = Domain.from_arrays([np.concatenate(stores)], domain.labels)
    np.testing.assert_array_equal(domain.select(index), one.select(index))


def test_stores_of_unlike_sizes_are_refused() -> None:
    images = [np.zeros((2, size, size, 1), np.uint8) for size in (4, 8)]
    with pytest.raises(DataError, match="4x4x1 and 8x8x1"):
        Domain.from_arrays(images, np.zeros(4, dtype=np.int64))


def test_faces_are_shifted_and_mirrored() -> None:
    images = torch.arange(50 * 50 * 3, dtype=torch.int64).remainder(251).to(torch.uint8)
    images = images.reshape(1, 50, 50, 3)
    as_it_is = torch.tensor([[0.5, 0.5, 0.9, 0.0]])
    assert torch.equal(augment("visual", images, as_it_is), images)
    mirrored = augment("visual", images, torch.tensor([[0.5, 0.5, 0.1, 0.0]]))
    assert torch.equal(mirrored, images.flip(2))
    down = augment("visual", images, torch.tensor([[1.0, 0.5, 0.9, 0.0]]))
    assert torch.equal(down[:, :46], images[:, 4:]) and torch.equal(down[:, 46], images[:, -1])


def test_speech_loses_a_span_of_time_and_one_of_mel_bands() -> None:
    images = torch.randint(0, 255, (2, 40, 50, 1), dtype=torch.uint8)
    unmoved = [0.5, 0.5, 0.5, 0.0]
    draws = torch.tensor([[1.0, 0.5, 1.0, 0.0, *unmoved], [0.0, 0.0, 0.0, 0.0, *unmoved]])
    out = augment("acoustic", images, draws)
    assert torch.equal(out[1], images[1])
    mean = images[0].float().mean().to(torch.uint8)
    assert (out[0, :, 20:30] == mean).all() and (out[0, :6] == mean).all()
    assert torch.equal(out[0, 6:, :20], images[0, 6:, :20])
    assert torch.equal(out[0, 6:, 30:], images[0, 6:, 30:])


def test_speech_is_shifted_and_made_louder() -> None:
    images = torch.randint(0, 200, (1, 50, 50, 1), dtype=torch.uint8)
    whole = [0.0, 0.0, 0.0, 0.0]
    out = augment("acoustic", images, torch.tensor([[*whole, 1.0, 0.5, 1.0, 0.0]]), True)
    torch.testing.assert_close(out[:, :46], 1.2 * images[:, 4:].float())
    out = augment("acoustic", images, torch.tensor([[*whole, 0.5, 0.0, 0.0, 0.0]]), True)
    torch.testing.assert_close(out[:, :, 4:], 0.8 * images[:, :, :46].float())


def test_mixup_shares_samples_and_targets_alike() -> None:
    inputs, classes = torch.tensor([[10.0], [20.0], [40.0]]), torch.tensor([0, 2, 2])
    mixed, targets = mix(inputs, classes, torch.tensor([1.0, 0.5, 0.75]), 3)
    assert mixed.tolist() == [[10.0], [15.0], [35.0]]
    assert targets.tolist() == [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]]


def test_augmentation_never_leaves_the_image_range_or_size() -> None:
    for modality, channels in (("acoustic", 1), ("visual", 3)):
        images = torch.randint(0, 255, (16, 9, 7, channels), dtype=torch.uint8)
        out = augment(modality, images, torch.rand(16, DRAWS[modality]))
        assert out.shape == images.shape and out.min() >= 0 and out.max() <= 255


def test_maps_of_faces_are_mirrored_and_shifted_by_whole_cells() -> None:
    maps = torch.rand(1, 3, 3, 8)
    mirrored = augment_maps("visual", maps, torch.tensor([[0.5, 0.5, 0.1, 0.0]]))
    assert torch.equal(mirrored, maps.flip(2))
    far = torch.tensor([[1.0, 1.0, 0.9, 0.0]])
    assert torch.equal(augment_maps("visual", maps, far), maps), "too small to be shifted"
    maps = torch.rand(1, 14, 14, 8)
    shifted = augment_maps("visual", maps, far)
    assert torch.equal(shifted[:, :13, :13], maps[:, 1:, 1:])


def test_maps_of_speech_lose_cells_as_often_as_images_pixels() -> None:
    """A tenth of the columns, at the edges as often as elsewhere; of rows as many as the span."""
    count = 20_000
    draws = torch.rand(count, DRAWS["acoustic"], generator=torch.Generator().manual_seed(0))
    draws[:, 2] = 0.0  # no rows
    maps = torch.rand(1, 4, 4, 2).expand(count, 4, 4, 2)
    out = augment_maps("acoustic", maps, draws)
    masked = (out != maps).all(3).all(1).float()
    assert masked.sum(1).max() == 1 and masked.mean() == pytest.approx(0.1, abs=0.01)
    assert masked.mean(0).min() > 0.08
    mean = maps[0].mean((0, 1))
    row = int(masked.sum(1).argmax())
    column = int(masked[row].argmax())
    torch.testing.assert_close(out[row, :, column], mean.expand(4, 2))
    draws[:, 0], draws[:, 2] = 0.0, 1.0
    rows = (augment_maps("acoustic", maps, draws) != maps).all(3).all(2).float()
    assert rows.sum(1).max() == 1 and rows.mean() == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize(("tuning", "changes"), [("full", True), ("last", True), ("frozen", False)])
def test_augmentation_is_for_what_is_tuned_and_can_be_off(
    tuning: str, changes: bool, data_of: Make, run_of: Make
) -> None:
    data = data_of(tuning)
    on, off = (
        collect(run_of(tuning=tuning, epochs=1, batch=7, augment=flag), data)[1][0][0].metrics
        for flag in (True, False)
    )
    assert (on["train/loss"] != off["train/loss"]) == changes


def test_speech_moves_with_full_tuning_only(map_data: Make, run_of: Make) -> None:
    data = map_data()
    moved, unmoved = (
        collect(run_of(tuning="last", epochs=1, batch=7, speech_moves=flag), data)[0]
        for flag in (True, False)
    )
    assert_same(moved, unmoved)
