"""From a task and its split to what a run trains on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.data.split import Split, SplitConfig, split
from fdan.data.store import Store, open_store
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.training.train import train
from fdan.training.training_data import load_training_data
from fdan.training.validate import score_checkpoint

Make = Callable[..., Any]
CPU = torch.device("cpu")
SIZE = 32


def stored(root: Path, corpus: str, modality: str, speakers: int, each: int = 7) -> Store:
    """A store on disk, a bright bar at the height of the emotion in each image."""
    folder, channels = root / f"{corpus}-{modality}", 1 if modality == "acoustic" else 3
    folder.mkdir(parents=True)
    labels = [at % 7 for at in range(speakers * each)]
    random = np.random.default_rng(len(labels))
    images = random.integers(0, 100, (len(labels), SIZE, SIZE, channels), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 150
    np.save(folder / "images.npy", images)
    names = [f"{corpus}-{modality}-{at}" for at in range(len(labels))]
    manifest = {
        "format": 1,
        "corpus": corpus,
        "modality": modality,
        "settings": {"size": SIZE},
        "fingerprint": f"{corpus}{modality}".encode().hex(),
        "shape": images.shape,
        "samples": {
            "emotions": [EMOTIONS[label] for label in labels],
            "speakers": [f"s{at // each}" for at in range(len(labels))],
            "utterances": names,
            "parts": [None] * len(labels),
            "files": names,
            "contents": names,
        },
        "unreadable": [],
        "problems": [],
        "counts": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return open_store(folder)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("stores")
    acoustic = (stored(root, "savee", "acoustic", 4, each=14),)
    visual = (stored(root, "savee", "visual", 3), stored(root, "meld", "visual", 2))
    return Task(acoustic, visual)


@pytest.fixture(scope="module")
def parts(task: Task) -> Split:
    return split(task, SplitConfig())


@pytest.mark.parametrize("tuning", ["frozen", "last", "full"])
def test_a_run_from_stores(
    tuning: str, task: Task, parts: Split, run_of: Make, tmp_path: Path
) -> None:
    run = run_of(tuning=tuning, epochs=8 if tuning == "frozen" else 1)
    data = load_training_data(task, parts, run, CPU, tmp_path)
    for modality in ("visual", "acoustic"):
        np.testing.assert_array_equal(data.domain(modality).labels, task.samples(modality).labels)
    assert len(list(tmp_path.glob("*.npy"))) == (0 if tuning == "full" else 3)
    assert len(list(tmp_path.glob("*-maps-*.npy"))) == (3 if tuning == "last" else 0)
    if tuning == "full":
        every = np.arange(len(task.samples("visual")))
        np.testing.assert_array_equal(data.visual.select(every), task.images("visual", every))
    last = train(run, data, lambda *_: None)
    tested = score_checkpoint(last, data, parts.acoustic_test)
    assert tested.confusion.sum() == len(parts.acoustic_test)
    if tuning == "frozen":
        assert tested.uar > 0.5


def test_on_the_cpu_nothing_is_copied(
    task: Task, parts: Split, run_of: Make, tmp_path: Path
) -> None:
    for tuning in ("full", "last", "frozen"):
        data = load_training_data(task, parts, run_of(tuning=tuning), CPU, tmp_path)
        if tuning == "full":
            maps = [store.images for store in task.visual]
            assert [a.data_ptr() for a in data.visual.arrays] == [m.ctypes.data for m in maps]
        else:
            # Two runs of one process or of several read the same file.
            again = load_training_data(task, parts, run_of(tuning=tuning), CPU, tmp_path)
            assert torch.equal(again.acoustic.arrays[0], data.acoustic.arrays[0])


@pytest.mark.parametrize("loaded", ["full", "last", "frozen"])
def test_data_are_for_runs_of_their_tuning(loaded: str, data_of: Make, run_of: Make) -> None:
    data = data_of(loaded)
    for tuning in {"full", "last", "frozen"} - {loaded}:
        with pytest.raises(AssertionError, match="loaded for another tuning"):
            data.check_fits(run_of(tuning=tuning).model)
    data.check_fits(run_of(tuning=loaded).model)


@pytest.mark.parametrize("tuning", ["last", "full"])
def test_images_of_two_sizes_are_refused_whatever_their_maps_are(
    tuning: str, task: Task, parts: Split, run_of: Make, tmp_path: Path
) -> None:
    """Those of 32 and 30 pixels have maps of one size."""
    first, second = task.visual
    smaller = replace(second, images=second.images[:, :30, :30])
    other = Task(task.acoustic, (first, smaller))
    with pytest.raises(DataError, match="30x30x3 and 32x32x3"):
        load_training_data(other, parts, run_of(tuning=tuning), CPU, tmp_path)


def test_the_fingerprint_follows_data_and_split(
    task: Task, parts: Split, run_of: Make, tmp_path: Path
) -> None:
    other = split(task, SplitConfig(split_seed=1))
    alone = Task(task.acoustic, task.visual[:1])
    run = run_of(tuning="full")
    prints = [
        load_training_data(t, p, run, CPU, tmp_path).fingerprint
        for t, p in ((task, parts), (task, other), (alone, split(alone, SplitConfig())))
    ]
    assert len(set(prints)) == 3
    assert load_training_data(task, parts, run, CPU, tmp_path).fingerprint == prints[0]


def test_no_warning_about_read_only_maps(
    task: Task, parts: Split, run_of: Make, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for tuning in ("full", "last", "frozen"):
        load_training_data(task, parts, run_of(tuning=tuning), CPU, tmp_path)
    assert not recwarn.list


def test_a_task_can_be_sent_to_another_process(
    task: Task, parts: Split, run_of: Make, tmp_path: Path
) -> None:
    sent = pickle.loads(pickle.dumps(task))
    run = run_of(tuning="full")
    one, other = (load_training_data(t, parts, run, CPU, tmp_path) for t in (task, sent))
    assert one.fingerprint == other.fingerprint
