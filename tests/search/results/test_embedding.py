"""The best model's feature space as points: which features, and how they are laid out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fdan.data.open_task import open_task
from fdan.data.split import Split, split
from fdan.data.task import Task
from fdan.device import choose_device
from fdan.emotions import EMOTIONS
from fdan.run_config import RunConfig
from fdan.training import validate
from fdan.training.checkpoint import Checkpoint
from fdan.training.train import train
from fdan.training.training_data import TrainingData, load_training_data
from search.cli.main import parse
from search.config.spec import resolve
from search.results.embedding import MAX_POINTS, MIN_POINTS, _embedding, _features, _lay_out
from tests.search.conftest import SMALL
from tracking.json_types import decode
from tracking.result import Embedding


@pytest.fixture(scope="module")
def trained(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Checkpoint, TrainingData, Task, Split]]]:
    """A short training on the demo corpus, once with the bank and once without."""
    runs = str(tmp_path_factory.mktemp("embedding"))
    flags = ["--runs", runs, "--task", f"demo:{corpus}", "--workers", "1", "--epochs", "2", *SMALL]
    spec = resolve(parse(flags).options)
    task, _ = open_task(spec.data, spec.settings)
    parts = split(task, spec.settings.split)
    found = {}
    for context in ("bank", "none"):
        run = RunConfig.from_mapping({**spec.fixed, "context": context, "layers": 2})
        data = load_training_data(task, parts, run, choose_device("cpu"), Path(runs) / "features")
        kept: list[Checkpoint] = []
        train(run, data, lambda _, checkpoint: kept.append(checkpoint()))  # noqa: B023
        found[context] = (kept[-1], data, task, parts)
    yield found


@pytest.mark.parametrize("context", ["bank", "none"])
def test_these_features_give_the_predictions(trained: dict[str, Any], context: str) -> None:
    checkpoint, data, _, parts = trained[context]
    samples, faces = parts.acoustic_validation, parts.visual_train[:9]
    z_a, z_v = _features(checkpoint, data, samples, faces)
    assert z_v.shape == (9, z_a.shape[1]) and z_v.std() > 0
    classifier = validate.restore_network(checkpoint).head.classifier
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(z_a).float())
    found = torch.softmax(logits.double(), dim=1).numpy()
    assert (
        np.abs(found - validate.score_checkpoint(checkpoint, data, samples).probabilities).max()
        < 1e-6
    )


def test_points_carry_their_samples(trained: dict[str, Any]) -> None:
    checkpoint, data, task, parts = trained["bank"]
    found = _embedding(checkpoint, data, task, parts)
    assert found is not None
    points = found.points
    speech = len(parts.acoustic_validation)
    faces = min(speech, len(parts.visual_train))
    told = [(point.emotion, point.speaker) for point in points]
    samples = task.samples("acoustic")
    assert told[:speech] == [
        (EMOTIONS[samples.labels[i]], samples.speakers[i]) for i in parts.acoustic_validation
    ]
    assert [point.modality for point in points] == ["acoustic"] * speech + ["visual"] * faces
    assert {name for _, name in told[speech:]} <= set(task.samples("visual").speakers)
    assert _embedding(checkpoint, data, task, parts) == found
    assert decode(Embedding, json.loads(json.dumps(asdict(found)))) == found


def clusters(count: int, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Seven far-off groups."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 7
    z = 20 * random.normal(size=(7, width))[labels] + random.normal(size=(count, width))
    return z, labels


@pytest.mark.parametrize("count", [MIN_POINTS, 24, MAX_POINTS])
def test_neighbours_stay_neighbours(count: int) -> None:
    z, emotions = clusters(count)
    places = _lay_out(z)
    assert places is not None and places.shape == (count, 2)
    if count < 100:  # too few of each group to be near anybody
        return
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (emotions[apart.argmin(1)] == emotions).mean() > 0.95


def test_nothing_to_show() -> None:
    z, _ = clusters(30)
    assert _lay_out(clusters(MIN_POINTS - 1)[0]) is None
    assert _lay_out(np.ones_like(z)) is None
    z[3, 2] = np.nan
    assert _lay_out(z) is None
    assert _lay_out(np.zeros((0, 8))) is None
