"""What a study would take: estimated from known timings, and timed for real."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fdan.data.open_task import open_task
from fdan.device import choose_device
from fdan.machine.cpus import cpu_count
from fdan.run_config import RunConfig
from fdan.training.batches import batch_sizes
from fdan.training.train import train
from fdan.training.training_data import load_training_data
from search.cli import main as command
from search.cli.main import parse
from search.config.spec import StudySpec, resolve
from search.optimizer.space_file import parse_space, shipped_spaces
from search.planning.estimate import (
    Estimate,
    _concurrency,
    _corners,
    _dearest_setting,
    _first_setting,
    _pruner_share,
)
from search.planning.step_timing import RunTiming, Timings, Workload, measure
from tests.search.conftest import KNOWN, SMALL, SPACE

pytestmark = pytest.mark.long

MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    def run(*flags: str) -> StudySpec:
        return resolve(parse(["--runs", str(tmp_path / "runs"), *flags]).options)

    return run


# The settings that are timed


@pytest.mark.parametrize("name", shipped_spaces())
def test_corners_of_the_shipped_spaces(name: str, make_spec: MakeSpec) -> None:
    spec = make_spec("--space", name)
    usual, *dear = _corners(spec)
    for params in (usual, *dear):
        RunConfig.from_mapping({**spec.fixed, **params})
        for dimension in spec.space.dimensions:
            assert (dimension.name in params) == dimension.active(params)
            assert dimension.name not in params or dimension.contains(params[dimension.name])
    for point in spec.space.enqueue[:1]:
        assert {**usual, **point} == usual
    for params in dear:
        assert params["layers"] == 3 or "layers" not in spec.space.names


def test_what_makes_a_setting_dear() -> None:
    searched = parse_space(
        SPACE
        + """
[dimensions.batch]
type = "int"
low = 8
high = 64

[dimensions.context]
type = "categorical"
choices = ["none", "bank"]
""",
        {**KNOWN, "batch": 32},
    )
    usual = _first_setting(searched, {**KNOWN, "layers": 0, "batch": 32, "context": "none"})
    assert usual == {"lr": 0.1, "layers": 0, "batch": 32, "context": "none"}
    dear = _dearest_setting(searched, usual)
    assert dear == {"lr": 0.1, "layers": 2, "heads": 1, "batch": 8, "context": "bank"}


def test_the_dearest_tuning_that_is_searched() -> None:
    for choices, dearest in (("frozen", "last", "full"), "full"), (("frozen", "last"), "last"):
        searched = parse_space(
            f'[dimensions.tuning]\ntype = "categorical"\nchoices = {list(choices)}\n',
            {**KNOWN, "tuning": "frozen"},
        )
        assert _dearest_setting(searched, {"tuning": "frozen"}) == {"tuning": dearest}


def test_a_corner_that_cannot_be_is_left_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Four heads divide the smallest width and not the largest."""
    file = tmp_path / "odd.toml"
    file.write_text('[dimensions.width]\ntype = "int"\nlow = 48\nhigh = 50\n')
    spec = make_spec("--space", str(file), "--heads", "4")
    assert _corners(spec) == ({"width": 48},)


# What the pruner leaves


def test_the_pruner_s_share() -> None:
    assert _pruner_share("none", 30, 20, "demo") == 1.0
    assert _pruner_share("hyperband", 30, 1, "demo") == 1.0, "the first one is the best so far"
    for few, many in ((5, 20), (20, 60)):
        for name in ("hyperband", "halving"):
            assert _pruner_share(name, 30, many, "x") < _pruner_share(name, 30, few, "x")
    assert _pruner_share("halving", 30, 20, "demo") < _pruner_share("hyperband", 30, 20, "demo")
    # Four real studies of the demo corpus had 0.48, 0.58, 0.62 and 0.63.
    assert 0.48 < _pruner_share("hyperband", 30, 20, "demo") < 0.63


def test_the_share_of_successive_halving_by_hand() -> None:
    """Epochs 1 and 3 of 6 are its rungs. Of trials in random order the k-th goes on at a rung if it
    is among the best max(1, k // 3) so far, with probability max(1, k // 3) / k."""

    def go_on(trials: int) -> float:
        return sum(max(1, k // 3) / k for k in range(1, trials + 1))

    first = go_on(60)
    lower, upper = (int(first), int(first) + 1)
    second = go_on(lower) + (first - lower) * (go_on(upper) - go_on(lower))
    by_hand = (60 * 1 + first * 2 + second * 3) / (60 * 6)
    assert _pruner_share("halving", 6, 60, "demo") == pytest.approx(by_hand, rel=0.1)


# The resources


def test_trials_at_once(make_spec: MakeSpec) -> None:
    assert _concurrency(make_spec(), 0) == min(20, cpu_count())
    assert _concurrency(make_spec("--trials", "1"), 0) == 1
    assert _concurrency(make_spec("--concurrent", "7"), 0) == 7
    assert _concurrency(make_spec("--cpus-per-trial", str(2 * cpu_count())), 0) == 1
    far = ("--address", "10.0.0.1:6379")
    assert _concurrency(make_spec(*far, "--device", "cpu"), 0) is None
    assert _concurrency(make_spec(*far, "--device", "cpu", "--concurrent", "5"), 0) == 5
    shared = make_spec(*far, "--gpus-per-trial", "0.4", "--concurrent", "9")
    assert _concurrency(shared, 2) == 4, "two of 0.4 fit a GPU, five do not fit two"


def test_the_estimate_by_hand(make_spec: MakeSpec) -> None:
    spec = make_spec("--trials", "40", "--epochs", "10", "--confirm", "2", "--seeds", "3")
    features = {"acoustic": 0.1, "visual": 0.2}
    timings = Timings((RunTiming(0.1, 10, 0.0), RunTiming(0.2, 10, 1.0)), 5.0, features)
    images = {"acoustic": 100, "visual": 200}
    estimate = Estimate(spec, 4, 4, ({}, {}), timings, 0.5, images)
    start, end = 15.0, 10.0  # Ray's and a worker's; figures
    dear, usual = 10 * 3 * 1.05, 10 * 2 * 1.05  # a trial's epochs, checkpoints included
    assert estimate.at_most == pytest.approx(start + end + 40 / 4 * (dear + 1))
    assert estimate.pruned == pytest.approx(start + end + 40 / 4 * (usual * 0.5 + 1))
    assert estimate.confirming == pytest.approx(start + 6 / 4 * (usual + 1))
    assert estimate.features == pytest.approx(100 * 0.1 + 200 * 0.2)


def test_gpus_that_are_elsewhere(
    make_spec: MakeSpec, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    far = ["--address", "10.0.0.1:6379", "--gpus-per-trial", "1", "--task", f"demo:{corpus}"]
    assert command.main([*far, "--estimate"]) == 2
    assert "--estimate: trials on GPUs are timed on one" in capsys.readouterr().err


# The clock


def test_timed_steps_are_those_of_a_training(corpus: Path, tmp_path: Path) -> None:
    """Random features take the time that real ones do, whatever else this machine does."""
    flags = ["--runs", str(tmp_path / "runs"), "--task", f"demo:{corpus}", "--workers", "1", *SMALL]
    spec = resolve(parse(flags).options)
    task, parts = open_task(spec.data, spec.settings)
    usual, dear = _corners(spec)
    workload = Workload(
        runs=({**spec.fixed, **usual}, {**spec.fixed, **dear}),
        shapes={"acoustic": (32, 32, 1), "visual": (32, 32, 3)},
        sizes=(len(parts.visual_train), len(parts.acoustic_train), len(parts.acoustic_validation)),
        classes=tuple(range(7)),
        device="cpu",
        threads=1,
        gpus=0.0,
    )
    measured = measure(workload, 2)
    run = RunConfig.from_mapping({**spec.fixed, **usual, "epochs": 12})
    data = load_training_data(task, parts, run, choose_device("cpu"), tmp_path / "features")
    epochs: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(run, data, lambda epoch, _: epochs.append(epoch.metrics["time/epoch_s"]))
    finally:
        torch.set_num_threads(threads)
    real = sorted(epochs)[len(epochs) // 2]
    first, second = measured.runs
    assert first.steps == len(batch_sizes(len(parts.acoustic_train), 32))
    assert real / 5 < first.epoch < real * 5
    assert second.step > first.step > 0 and second.validation > 0
    assert 0 < measured.start < 120
    assert set(measured.features) == {"acoustic", "visual"}
    assert all(0 < each < 1 for each in measured.features.values())


def test_trained_backbones_are_timed_on_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes that look for their modules neither in the working folder nor where MLflow puts
    the code of a model that was loaded before."""
    (tmp_path / "code" / "fdan").mkdir(parents=True)
    (tmp_path / "code" / "fdan" / "__init__.py").write_text("raise SystemExit('a model')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "code"), *sys.path])
    (tmp_path / "struct.py").write_text("raise SystemExit('a student's file')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    settings = {"backbone": "resnet18", "weights": "none", "tuning": "full", "batch": 4}
    shapes = {"acoustic": (32, 32, 1), "visual": (32, 32, 3)}
    workload = Workload((settings,), shapes, (400, 1000, 100), (0, 3, 6), "cpu", 1, 0.0)
    measured = measure(workload, 1)
    assert measured.runs[0].steps == 250
    assert measured.runs[0].epoch > 250 * measured.runs[0].step > 0
    assert measured.features == {}


def test_a_last_stage_is_timed_on_maps_and_these_by_themselves() -> None:
    settings = {"backbone": "resnet18", "weights": "none", "batch": 4}
    runs = ({**settings, "tuning": "last"},)
    shapes = {"acoustic": (64, 64, 1), "visual": (48, 48, 3)}
    workload = Workload(runs, shapes, (400, 1000, 100), (0, 3, 6), "cpu", 1, 0.0)
    data = workload.random_data(RunConfig.from_mapping(runs[0]))
    data.check_fits(RunConfig.from_mapping(runs[0]).model)
    assert [data.domain(m).arrays[0].shape[1:] for m in shapes] == [(4, 4, 256), (3, 3, 256)]
    measured = measure(workload, 1)
    assert measured.runs[0].steps == 250
    assert measured.runs[0].epoch > 250 * measured.runs[0].step > 0
    assert set(measured.features) == {"acoustic", "visual"}


def test_the_command(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--epochs", "6"]
    assert command.main([*flags, "--estimate", "--trials", "5", "--confirm", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "planned: 5 trials of at most 6 epochs",
        "first known good (layers 1, kernels 5)",
        "dearest corner (layers 3, kernels 7)",
        "5 trials of 6 epochs, ",
        "at most about ",
        "CPU-hours): nothing pruned, all the dearest",
        "with hyperband: it leaves about ",
        "confirming: at most 6 whole trials more, about ",
        "frozen features, about ",
    ):
        assert words in out, out
    assert command.main([*flags, "--estimate", "--trials", "2", "--tuning", "last"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "once: maps before the last stage, about " in out
    assert not runs.exists(), "nothing was written"
