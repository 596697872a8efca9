"""The benchmarks that compare, in quick forms: they measure what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import lmmd, step
from benchmarks.comparing import by_turns
from benchmarks.phases import ELSE, FEATURES, IDLE, IMPORTS, STEPS, WAITING
from benchmarks.wall_time import Span, table
from fdan.run_config import RunConfig
from tests.benchmarks.conftest import ROOT

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


def test_turns_are_counted_without_the_warm_ones() -> None:
    called: list[str] = []
    turns = by_turns({k: lambda k=k: called.append(k) for k in "ab"}, 3, warm=1)
    assert called == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [len(some) for some in (*turns.wall.values(), *turns.cpu.values())] == [3] * 4


def test_three_forms_of_the_lmmd() -> None:
    """Equal values and gradients; the usual form holds all differences at once, ours none."""
    found = lmmd.measure(32, rounds=3, device=CPU, with_loop=True)
    assert found.apart < lmmd.EQUAL
    differences = 32 * 32 * lmmd.WIDTH * 4
    assert differences <= found.bytes["usual"] < 10 * differences
    assert found.bytes["ours"] < differences / 4
    assert set(found.ms) == {"ours", "usual", "loop"}


def test_peak_counts_what_is_held_at_once() -> None:
    kept: list[torch.Tensor] = []

    def call() -> None:
        kept.clear()
        for _ in range(3):
            torch.ones(1000)  # gone before the next
        kept.extend(torch.ones(500) for _ in range(2))

    assert 4000 <= lmmd.peak(call, CPU) < 6500


def test_steps_of_each_kind() -> None:
    run = RunConfig.from_mapping({"backbone": "resnet18", "weights": "none", "batch": 4})
    calls = step.calls(run, 32, CPU)
    assert list(calls) == ["full", "bare", "last", "frozen", "batch", "pixels", "head", "SGD, head"]
    turns = by_turns(calls, 1)
    assert turns.wall["full"][0] > turns.wall["batch"][0]


def test_wall_time_is_shared_out_whole() -> None:
    """Two trials at once for 2 s, then one alone for 1 s; before and after, the driver."""
    driver = [Span(1, 3, FEATURES), Span(3, 7, WAITING), Span(7, 8, ELSE)]
    one = [Span(3.5, 4, IMPORTS), Span(4, 6, STEPS), Span(6, 9, IDLE)]
    other = [Span(4, 6.5, STEPS), Span(6.5, 7, STEPS)]
    found = table(driver, [one, other], 0, 8.5)
    assert sum(found.values()) == pytest.approx(8.5)
    assert found == pytest.approx(
        # 0.25: the half of an import that is another trial's share of idleness
        {IMPORTS: 1.25, FEATURES: 2, STEPS: 2.5, IDLE: 0.5 + 0.25 + 0.5, ELSE: 1.5}
    )


def test_bad_input_is_one_line() -> None:
    for name, words in (("lmmd", ["--rounds", "0"]), ("step", ["--threads", "x"])):
        command = [sys.executable, "-m", f"benchmarks.{name}", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert f"'{words[1]}': expected" in done.stderr


def test_an_absent_device_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "benchmarks.lmmd", "--device", "cuda"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_naive_media_are_ours(tmp_path: Path) -> None:
    """Speech to one grey level; frames to the last bit."""
    from benchmarks import preparing
    from fdan.corpora import Source
    from fdan.corpora.demo import generate

    demo = generate(tmp_path / "demo", speakers=1, takes=1, uneven=False)
    for modality in ("acoustic", "visual"):
        source = Source("demo", demo, modality)
        paths = [row.path for row in preparing.read(source).rows]
        turns, apart = preparing.compare(source, paths, tmp_path, rounds=1)
        assert turns.wall["ours"][0] > 0
        if modality == "acoustic":
            assert apart["grey_levels"] <= preparing.GREY_GOAL
        else:
            assert apart["equal"] == apart["frames"] == 21 and apart["overlap"] > 0.9
