"""Finished studies in small: real models trained on a real demo corpus, with all that a search
leaves: result.json, winner/ with test.csv, the study's run and the winner's run in MLflow."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fdan.corpora import Source
from fdan.corpora.demo import generate
from fdan.data.prepare import prepare
from fdan.data.provenance import origin
from fdan.data.split import Split, SplitConfig, describe, split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import LEVEL, bootstrap, compare
from fdan.files import sha256_file
from fdan.inference.model_folder import TENSORS, read_model
from fdan.inference.model_writer import write_model
from fdan.media.faces import FaceSettings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.train import train
from fdan.training.training_data import load_training_data
from tracking.json_types import decode
from tracking.result import (
    PREDICTIONS,
    WINNER,
    YARDSTICK_PREDICTIONS,
    Check,
    ClassScore,
    Confirmation,
    ConfirmedSetting,
    Confusions,
    Cost,
    Importances,
    PairedDifference,
    Part,
    Range,
    ScoreInterval,
    SpeakerScore,
    StudyResult,
    TestScore,
    YardstickScore,
)
from tracking.tracker import Tracker
from tracking.uri import default_uri

EXPERIMENT: Final = "fdan-search"

GOOD: Final = {"layers": 1, "lr": 0.03, "epochs": 10}
YARDSTICK: Final = "logistic_regression"

BAD: Final = {"layers": 1, "lr": 1e-6, "epochs": 1}
"""Settings that learn the demo corpus, and that leave a network at chance."""


SPLIT: Final = SplitConfig(test=0.34)


@dataclass(frozen=True)
class Corpus:
    """Prepared data of seven emotions, one face and one sound an utterance."""

    runs: Path
    sounds: Path
    task: Task
    parts: Split

    @classmethod
    def make(cls, runs: Path, speakers: int = 6, takes: int = 2, seed: int = 0) -> Corpus:
        sounds = generate(
            runs / "demo", speakers=speakers, takes=takes, uneven=False, seed=seed, workers=2
        )
        stores = [
            prepare(Source("demo", sounds, modality), settings, runs / "stores", workers=2)
            for modality, settings in (
                ("acoustic", SpectrogramSettings(spectrogram_size=32)),
                ("visual", FaceSettings(face_size=32, frames=1)),
            )
        ]
        task = Task((stores[0],), (stores[1],))
        return cls(runs, sounds, task, split(task, SPLIT))

    def train(self, **settings: Any) -> Checkpoint:
        """A small frozen network."""
        torch.set_num_threads(1)
        run = RunConfig.from_mapping(
            {
                **{"backbone": "resnet18", "weights": "none", "tuning": "frozen", "width": 32},
                **{"batch": 16, "bank": 4, **GOOD, **settings},
            }
        )
        data = load_training_data(
            self.task, self.parts, run, torch.device("cpu"), self.runs / "features"
        )
        return train(run, data, lambda epoch, checkpoint: None)


def link(study: Path, to: Path) -> Path:
    """A study of a test's own, without copying its tensors: replace files there, never write into
    them."""
    shutil.copytree(study, to, copy_function=os.link)
    return to


def make_all(runs: Path) -> None:
    """Studies named after what they are: good, small (as good, but cheaper), bad."""
    corpus = Corpus.make(runs)
    for name, settings in (("good", {}), ("small", {"layers": 0, "seed": 2}), ("bad", BAD)):
        finish(corpus, corpus.train(**settings), runs / name, default_uri(runs), track=False)


def anger(found: Predictions) -> Predictions:
    """Anger, whatever is said: what learns nothing is not distinguishable from it."""
    answers = np.zeros((len(found), len(EMOTIONS)))
    answers[:, 0] = 1
    return replace(found, probabilities=answers)


def with_yardsticks(study: Path, answers: Mapping[str, Predictions]) -> StudyResult:
    """Give a study other yardsticks, with these answers on the test part."""
    result, folder = StudyResult.load(study), study / WINNER
    winner, scores = Predictions.read(folder / PREDICTIONS), []
    for name, predictions in answers.items():
        file = folder / YARDSTICK_PREDICTIONS.format(name)
        file.unlink(missing_ok=True)  # it may be a link to another study's
        predictions.write(file)
        interval, paired = bootstrap(predictions), compare(winner, predictions)
        scores.append(
            YardstickScore(
                name,
                name.replace("_", " "),
                predictions.measures().uar,
                ScoreInterval(interval.low, interval.high, LEVEL, interval.groups, interval.by),
                PairedDifference(paired.difference, paired.low, paired.high, paired.p),
            )
        )
    assert result.test is not None
    result = replace(result, test=replace(result.test, yardsticks=tuple(scores)))
    result.save(study)
    return result


def finish(
    corpus: Corpus,
    checkpoint: Checkpoint,
    study: Path,
    uri: str,
    *,
    answers: Callable[[Predictions], Predictions] = lambda found: found,
    track: bool = True,
) -> StudyResult:
    """A study in the folder `study` whose confirmed winner, confirm run 1 of trial 3, is this
    checkpoint. `answers` may put other answers in the place of the model's. Its one yardstick
    always says anger."""
    folder = study / WINNER
    study.mkdir(parents=True, exist_ok=True)
    facts = {**origin(corpus.task, SPLIT), "study": study.name}
    write_model(folder, checkpoint, {**facts, "trial": 3, "confirm_run": 1})
    found = answers(_answers(corpus, folder))
    found.write(folder / PREDICTIONS)
    study_id = _track(study, uri) if track else f"{study.name}-untracked"
    _result(corpus, checkpoint, study, uri, study_id, found).save(study)
    return with_yardsticks(study, {YARDSTICK: anger(found)})


def _answers(corpus: Corpus, folder: Path) -> Predictions:
    samples, chosen = corpus.task.samples("acoustic"), corpus.parts.acoustic_test
    return Predictions(
        tuple(samples.contents[i] for i in chosen),
        tuple(samples.utterances[i] for i in chosen),
        tuple(samples.speakers[i] for i in chosen),
        samples.labels[chosen],
        read_model(folder).probabilities(corpus.task.images("acoustic", chosen)),
    )


def _track(study: Path, uri: str) -> str:
    with Tracker(study / "spool", uri, EXPERIMENT) as tracker:
        tracker.open_study(study.name, {"sampler": "tpe"}, {})
        tracker.open_run("confirm-1", {"alpha": 0.1}, {})
        tracker.log_metrics("confirm-1", 1, {"value": 0.5})
        tracker.close_run("confirm-1", "COMPLETE", "done")
        tracker.close_run("study", "COMPLETE", "5 of 5 trials")
        assert tracker.drain(60)
        return tracker.study_id


def _result(
    corpus: Corpus,
    checkpoint: Checkpoint,
    study: Path,
    uri: str,
    study_id: str,
    found: Predictions,
) -> StudyResult:
    measured, interval = found.measures(), bootstrap(found)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    params = {"layers": checkpoint.run.model.layers, "lr": checkpoint.run.training.lr}
    value = checkpoint.value
    return StudyResult(
        study=study.name,
        study_id=study_id,
        experiment=EXPERIMENT,
        task=corpus.task.name,
        state="COMPLETE",
        reason="5 of 5 trials",
        wanted=5,
        counts={"COMPLETE": 3, "PRUNED": 2, "FAIL": 0},
        written=now,
        command=f"python search/run.py --study {study.name}",
        tracking_uri=uri,
        page=None,
        space={"lr": Range("float", 0.001, 0.1, log=True)},
        fixed={},
        sampler="tpe",
        pruner="hyperband",
        epochs=checkpoint.run.training.epochs,
        origin=origin(corpus.task, SPLIT),
        parts=tuple(
            Part(name, modality, part.emotions, part.speakers)
            for part in describe(corpus.task, corpus.parts)
            for modality, _, name in (part.part.partition(" "),)
        ),
        unreadable=(),
        baseline=None,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        git="0" * 40,
        cost=Cost("cpu", 5.0, 2.0, epochs_trained=30, epochs_planned=50),
        trials=(),
        importances=Importances("", 3, False, {}),
        curves={},
        embedding=None,
        confusion=Confusions(None, tuple(map(tuple, measured.confusion.tolist()))),
        confirm=Confirmation(
            seeds=(1000, 1001),
            settings=(
                ConfirmedSetting(
                    trial=3,
                    params=params,
                    search_value=value + 0.02,
                    values=(value, value - 0.01),
                    mean=value - 0.005,
                    low=value - 0.07,
                    high=value + 0.06,
                    optimism=0.025,
                ),
            ),
            winner=3,
            run=1,
            seed=checkpoint.run.training.seed,
        ),
        test=TestScore(
            trial=3,
            run=1,
            seed=checkpoint.run.training.seed,
            scored=now,
            samples=len(found),
            war=measured.war,
            uar=measured.uar,
            wf1=measured.wf1,
            interval=ScoreInterval(
                interval.low, interval.high, LEVEL, interval.groups, interval.by
            ),
            per_class={name: decode(ClassScore, one) for name, one in found.per_class().items()},
            per_speaker={
                name: decode(SpeakerScore, one) for name, one in found.per_speaker().items()
            },
            baseline_uar=None,
            model_sha256=sha256_file(study / WINNER / TENSORS),
            again=(),
        ),
        checks=(Check("speakers of the parts are disjoint", True, "2, 2, 2"),),
    )
