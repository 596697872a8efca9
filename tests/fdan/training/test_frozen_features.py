"""Frozen features, and the maps that enter a last stage: computed once, shared, complete or
absent."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.model.backbones import build_backbone, find_weights
from fdan.training.frozen_features import cached_features, cached_maps

CPU = torch.device("cpu")
WEIGHTS = find_weights("resnet18", "none")


@dataclass(frozen=True)
class Pictures:
    """A store, as far as features want it."""

    fingerprint: str
    images: Any


def pictures(count: int = 5, seed: int = 0, fingerprint: str = "f" * 40) -> Any:
    random = np.random.default_rng(seed)
    return Pictures(fingerprint, random.integers(0, 255, (count, 32, 32, 1), dtype=np.uint8))


def test_they_are_the_backbones_and_are_kept(tmp_path: Path) -> None:
    store, heard = pictures(70), []
    found = cached_features(store, WEIGHTS, tmp_path, CPU, lambda done, n: heard.append((done, n)))
    with torch.inference_mode():
        expected = build_backbone(WEIGHTS).eval()(torch.from_numpy(store.images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert heard == [(32, 70), (64, 70), (70, 70)]
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    again = cached_features(store, WEIGHTS, tmp_path, CPU, lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(again, found)
    assert [p.suffix for p in tmp_path.iterdir() if p.suffix != ".lock"] == [".npy"]


def test_other_stores_and_backbones_have_files_of_their_own(tmp_path: Path) -> None:
    cached_features(pictures(), WEIGHTS, tmp_path, CPU)
    cached_features(pictures(fingerprint="e" * 40), WEIGHTS, tmp_path, CPU)
    cached_features(pictures(), find_weights("resnet34", "none"), tmp_path, CPU)
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_maps_are_those_before_the_last_stage_and_are_kept(tmp_path: Path) -> None:
    store, heard = pictures(70), []
    found = cached_maps(store, WEIGHTS, tmp_path, CPU, lambda done, n: heard.append((done, n)))
    with torch.inference_mode():
        expected = build_backbone(WEIGHTS).eval().maps(torch.from_numpy(store.images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert heard == [(32, 70), (64, 70), (70, 70)]
    assert isinstance(found, np.memmap) and found.dtype == np.float32
    again = cached_maps(store, WEIGHTS, tmp_path, CPU, lambda *_: pytest.fail("computed again"))
    np.testing.assert_array_equal(again, found)


def test_maps_and_features_of_a_store_are_two_files(tmp_path: Path) -> None:
    maps = cached_maps(pictures(), WEIGHTS, tmp_path, CPU)
    features = cached_features(pictures(), WEIGHTS, tmp_path, CPU)
    assert (maps.shape, features.shape) == ((5, 2, 2, 256), (5, 512))
    kept = sorted(file.name for file in tmp_path.glob("*.npy"))
    start = f"{'f' * 24}-resnet18-{WEIGHTS.sha256[:16]}"
    assert kept == [f"{start}-5x32x32.npy", f"{start}-maps-5x32x32.npy"]


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    found = np.array(cached_features(pictures(), WEIGHTS, tmp_path, CPU))
    file = next(tmp_path.glob("*.npy"))
    file.write_bytes(file.read_bytes()[:500])
    np.testing.assert_array_equal(cached_features(pictures(), WEIGHTS, tmp_path, CPU), found)
    np.save(file, found[:3])  # whole, but not what its name says
    np.testing.assert_array_equal(cached_features(pictures(), WEIGHTS, tmp_path, CPU), found)


def test_an_interrupted_computation_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(pictures(), WEIGHTS, tmp_path, CPU, stop)
    assert not [p for p in tmp_path.iterdir() if p.suffix != ".lock"]


def _ask(cache: Path, gate: Any, log: Path) -> None:
    torch.set_num_threads(1)

    def note(done: int, total: int) -> None:
        time.sleep(0.3)
        with log.open("a") as stream:
            stream.write(f"{done}\n")

    gate.wait(timeout=120)
    cached_features(pictures(), WEIGHTS, cache, CPU, note)


def test_processes_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, log = context.Barrier(3), tmp_path / "log"
    workers = [context.Process(target=_ask, args=(tmp_path / "cache", gate, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text().split() == ["5"]
