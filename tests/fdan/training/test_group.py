"""Runs trained together come to the numbers that they come to alone, whoever is beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.errors import ConfigError
from fdan.model.local_mmd import Kernel
from fdan.model.network import Output, fdan_loss
from fdan.run_config import KernelConfig, RunConfig
from fdan.training import group
from fdan.training.checkpoint import Checkpoint
from fdan.training.group import group_key, train_group
from fdan.training.group_heads import StackedHeads
from fdan.training.train import Diverged, EpochReport, RunProgress, train
from fdan.training.training_data import TrainingData
from fdan.training.validate import score_checkpoint

Make = Callable[..., Any]
Told = list[tuple[EpochReport, Checkpoint]]

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def alone(run: RunConfig, data: TrainingData, **more: Any) -> Told:
    told: Told = []
    train(run, data, lambda report, checkpoint: told.append((report, checkpoint())), **more)
    return told


def together(
    runs: Sequence[RunConfig], data: TrainingData, **more: Any
) -> tuple[list[Told], dict[int, Diverged]]:
    told: list[Told] = [[] for _ in runs]
    ended: dict[int, Diverged] = {}

    def report(members: Sequence[group.MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
        for run, epoch, make in members:
            told[run].append((epoch, make()))
        assert not ended.keys() & diverged.keys()
        ended.update(diverged)

    train_group(runs, data, report, **more)
    return told, ended


def assert_close(ours: Told, theirs: Told) -> None:
    assert len(ours) == len(theirs)
    for (report, checkpoint), (its_report, its_checkpoint) in zip(ours, theirs, strict=True):
        assert report.epoch == its_report.epoch
        assert report.metrics.keys() == its_report.metrics.keys()
        for name in report.metrics.keys() - {"time/epoch_s"}:
            np.testing.assert_allclose(
                report.metrics[name], its_report.metrics[name], **CLOSE, err_msg=name
            )
        np.testing.assert_array_equal(report.confusion, its_report.confusion)
        assert_close_checkpoints(checkpoint, its_checkpoint)


def assert_close_checkpoints(one: Checkpoint, other: Checkpoint) -> None:
    assert replace(one, tensors={}) == replace(other, tensors={})
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], **CLOSE, msg=name)


UNLIKE: list[dict[str, Any]] = [
    {"alpha": 0.3, "seed": 1, "schedule": "one-cycle"},
    {"alpha": 0.0, "lr": 0.02, "kernels": 1},
    {"alpha": 1e-3, "momentum": 0.0, "decay": 0.0, "seed": 7, "scale": 0.3},
    {"alpha": 0.05, "momentum": 0.5, "decay": 0.01, "kernels": 7, "ratio": 1.3, "epochs": 3},
]


@pytest.mark.parametrize("bandwidth", [None, 300.0], ids=["adaptive", "fixed"])
@pytest.mark.parametrize(
    "shape",
    [
        {"layers": 0},
        {"layers": 1},
        {"layers": 2, "heads": 2, "batch": 7},  # 56 = 8 * 7: no odd last step
        {"layers": 1, "context": "none"},
    ],
    ids=str,
)
def test_each_run_is_what_it_is_alone(
    shape: dict[str, Any], bandwidth: float | None, frozen_data: Make, run_of: Make
) -> None:
    data = frozen_data()
    wide = [
        {"bandwidth": None if bandwidth is None else bandwidth * (1 + i)}
        for i in range(len(UNLIKE))
    ]
    runs = [run_of(**shape | own | b) for own, b in zip(UNLIKE, wide, strict=True)]
    told, diverged = together(runs, data)
    assert not diverged
    for run, its in zip(runs, told, strict=True):
        assert len(its) == run.training.epochs
        assert_close(its, alone(run, data))


def test_a_run_goes_on_alone_and_in_any_company(
    frozen_data: Make, run_of: Make, tmp_path: Path
) -> None:
    data = frozen_data()
    runs = [run_of(layers=1, epochs=5, **own) for own in ({"seed": 1}, {"alpha": 0.4}, {})]
    whole = [alone(run, data) for run in runs]
    first, _ = together(runs, data, until=[2, 1, 3])
    assert [len(told) for told in first] == [2, 1, 3]
    kept: list[Checkpoint] = []
    for number, told in enumerate(first):
        told[-1][1].save(tmp_path / str(number))
        kept.append(Checkpoint.load(tmp_path / str(number)))

    assert_close(alone(runs[0], data, resume=kept[0]), whole[0][2:])
    # Another order, another epoch each, a newcomer, and one from alone.
    newcomer = run_of(layers=1, epochs=2, seed=9)
    packed = [runs[2], newcomer, runs[1], runs[0]]
    starts = [kept[2], None, kept[1], whole[0][3][1]]
    before = {name: tensor.clone() for name, tensor in kept[2].tensors.items()}
    rest, diverged = together(packed, data, resume=starts)
    assert not diverged
    assert_close(rest[0], whole[2][3:])
    assert_close(rest[1], alone(newcomer, data))
    assert_close(rest[2], whole[1][1:])
    assert_close(rest[3], whole[0][4:])
    # A checkpoint is as it was, whoever went on from it.
    assert all(torch.equal(tensor, kept[2].tensors[name]) for name, tensor in before.items())


def test_a_checkpoint_from_a_group_answers_as_the_group_did(
    frozen_data: Make, run_of: Make
) -> None:
    data = frozen_data()
    (_, told), _ = together([run_of(layers=2, seed=seed, epochs=2) for seed in (0, 1)], data)
    for report, checkpoint in told:  # also that of an earlier epoch
        found = score_checkpoint(checkpoint, data, data.acoustic_validation)
        np.testing.assert_array_equal(found.confusion, report.confusion)
        assert found.loss == pytest.approx(report.metrics["validation/loss"], abs=1e-5)


def test_what_report_raises_ends_all(frozen_data: Make, run_of: Make) -> None:
    def report(members: Sequence[group.MemberEpoch], diverged: Mapping[int, Diverged]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_group([run_of(), run_of(seed=1)], frozen_data(), report)


def test_a_checkpoint_is_not_made_of_later_weights(frozen_data: Make, run_of: Make) -> None:
    """Neither of its own, nor of those of another run that has moved up to its row."""
    makers: list[Callable[[], Checkpoint]] = []

    def report(members: Sequence[group.MemberEpoch], _: object) -> None:
        for make in makers:
            with pytest.raises(AssertionError, match="too late"):
                make()
        makers.extend(make for _, _, make in members)

    long, short = run_of(epochs=2), run_of(epochs=1)
    train_group([long, short], frozen_data(), report)
    assert len(makers) == 3
    makers.clear()
    first = alone(long, frozen_data())[0][1]
    # The first run is at its end after one epoch, the other after two, both then at their second.
    train_group([long, run_of(epochs=3, seed=1)], frozen_data(), report, resume=[first, None])
    assert len(makers) == 4


def test_a_run_alone_makes_no_checkpoint_of_later_weights(frozen_data: Make, run_of: Make) -> None:
    makers: list[Callable[[], Checkpoint]] = []

    def report(epoch: EpochReport, make: Callable[[], Checkpoint]) -> None:
        for earlier in makers:
            with pytest.raises(AssertionError, match="too late"):
                earlier()
        makers.append(make)

    train(run_of(epochs=2), frozen_data(), report)
    assert len(makers) == 2


def test_a_run_that_diverges_ends_alone(frozen_data: Make, run_of: Make) -> None:
    """And is told of at once, though the others go on."""
    data = frozen_data()
    good = [run_of(layers=1, seed=seed, alpha=alpha) for seed, alpha in ((0, 0.2), (1, 0.0))]
    bad = run_of(layers=1, lr=1e9)
    with pytest.raises(Diverged) as expected:
        alone(bad, data)
    told, diverged = together([good[0], bad, good[1]], data)
    assert list(diverged) == [1] and str(diverged[1]) == str(expected.value)
    heard = list[list[int]]()
    train_group([good[0], bad], data, lambda _, diverged: heard.append(list(diverged)))
    assert heard == [[1], *([[]] * (good[0].training.epochs - 1))]
    assert told[1] == []
    for run, its in zip(good, (told[0], told[2]), strict=True):
        assert_close(its, alone(run, data))


def test_only_the_validation_may_diverge(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    spoilt = data.acoustic.arrays[0].clone()
    spoilt[data.acoustic_validation[0]] = torch.inf
    data = replace(data, acoustic=replace(data.acoustic, arrays=(spoilt,)))
    told, diverged = together([run_of()], data)
    assert told == [[]] and "validation loss is nan after epoch 1" in str(diverged[0])


def test_alpha_0_has_no_part_of_an_lmmd_that_is_nan() -> None:
    torch.manual_seed(0)
    y = torch.arange(6) % 3
    kernel = KernelConfig(bandwidth=1e-30, scale=1e-30)  # 0 in float32: 0 / 0 for a sample itself
    gradients = []
    for alpha in (0.0, torch.tensor(0.0), torch.tensor(0.1)):
        torch.manual_seed(0)
        z_v, z_a = (torch.randn(6, 7, requires_grad=True) for _ in range(2))
        loss = fdan_loss(Output(z_v * 2, z_a * 3, ((z_v, z_a),)), y, y, alpha, kernel)
        assert loss.lmmd.isnan()
        loss.total.backward()
        gradients.append((loss.total, z_v.grad, z_a.grad))
    for expected, found, spoilt in zip(*gradients, strict=True):
        assert torch.isfinite(expected).all() and torch.equal(expected, found)
        assert spoilt.isnan().any()


def test_alpha_0_beside_a_run_whose_lmmd_is_nan() -> None:
    """As a group computes it, where one alpha is 0 and the other is not."""
    torch.manual_seed(0)
    z_RND, y = torch.randn(2, 6, 7), torch.arange(6) % 3
    kernel = Kernel(torch.tensor(0.0), 1.0, torch.ones(1))

    def total(z_ND: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        return fdan_loss(Output(z_ND, 2 * z_ND, ((z_ND, 2 * z_ND),)), y, y, alpha, kernel).total

    found = torch.func.vmap(torch.func.grad(total))(z_RND, torch.tensor([0.0, 0.1]))
    assert torch.isfinite(found[0]).all() and found[1].isnan().any()


def test_several_stores_of_a_modality(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    whole = data.acoustic.arrays[0]
    parts = replace(data.acoustic, arrays=(whole[:30], whole[30:31], whole[31:]))
    runs = [run_of(seed=seed, epochs=2) for seed in (0, 1)]
    told, _ = together(runs, replace(data, acoustic=parts))
    for run, its in zip(runs, told, strict=True):
        assert_close(its, alone(run, data))


def test_a_group_of_one_and_runs_that_are_done(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    run = run_of(epochs=2)
    (told,), _ = together([run], data)
    assert_close(told, alone(run, data))
    last = told[-1][1]
    assert together([run, run], data, resume=[last, last]) == ([[], []], {})
    again, _ = together([run, run_of(seed=1)], data, resume=[last, None], until=[1, 1])
    assert [len(its) for its in again] == [0, 1]


def test_another_run_cannot_go_on_from_a_checkpoint(frozen_data: Make, run_of: Make) -> None:
    data = frozen_data()
    (told,), _ = together([run_of(epochs=1)], data)
    with pytest.raises(ConfigError, match=r"has lr = 0.01, this run has 0.02"):
        together([run_of(), run_of(lr=0.02)], data, resume=[None, told[-1][1]])


def test_which_runs_may_go_together(frozen_data: Make, run_of: Make) -> None:
    run = run_of()
    for own in (*UNLIKE, {"ratio": 3.0}, {"lr": 1.0}):
        assert group_key(run_of(**own)) == group_key(run)
    for shape in (
        {"smoothing": 0.1},
        {"layers": 2},
        {"width": 32},
        {"batch": 9},
        {"bandwidth": 1.0},
        {"bank": 3},
    ):
        assert group_key(run_of(**shape)) != group_key(run)
    alone = ({"optimizer": "adamw"}, {"mixup": 0.2}, {"dropout": 0.1}, {"average": 0.9})
    for lonely in ({"tuning": "full"}, {"tuning": "last"}, {"system": "speech"}, *alone):
        assert group_key(run_of(**lonely)) is None
    with pytest.raises(AssertionError, match="no group"):
        together([run, run_of(layers=2)], frozen_data())


def test_a_step_asks_the_device_nothing(frozen_data: Make, run_of: Make) -> None:
    """On a device that has shapes but no numbers, whoever asks for one raises."""
    meta = torch.device("meta")
    runs = [run_of(layers=2), run_of(layers=2, alpha=0.0, kernels=2)]
    heads = StackedHeads(
        runs,
        [RunProgress(run, frozen_data(), None).start_network()[0] for run in runs],
        [{}, {}],
        meta,
    )
    x, y = torch.empty(2, 8, 512, device=meta), torch.empty(2, 8, device=meta).long()
    assert heads.step(x, x, y, y, torch.empty(2, device=meta)).shape == (2, 4)
    assert heads.predict(x[0], heads.build_bank(x, x)).shape == (2, 8, 7)
