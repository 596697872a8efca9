"""The yardsticks against scikit-learn's plain calls; what they may look at, and what they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fdan.data.split import SplitConfig, split
from fdan.data.store import Store
from fdan.data.task import Task
from fdan.evaluation import mfcc_svm
from fdan.evaluation.mfcc_svm import SETTINGS, SvmSetting, choose_setting, fit_mfcc_svm, folds
from fdan.evaluation.predictions import Predictions
from fdan.evaluation.yardsticks import (
    LOGISTIC_REGRESSION,
    MFCC_SVM,
    SPEECH_ALONE,
    YARDSTICKS,
    YardstickData,
    yardstick_predictions,
)
from fdan.media.speech_statistics import COLUMNS
from fdan.model.backbones import Weights
from fdan.run_config import RunConfig
from fdan.training.train import train
from fdan.training.training_data import Domain, TrainingData
from fdan.training.validate import predict_logits, restore_network

Array = npt.NDArray[np.float32]

SPEAKERS, EACH = 8, 14  # utterances of a speaker, two of each emotion
BY_NAME = {yardstick.name: yardstick for yardstick in YARDSTICKS}
BEFORE = [yardstick for yardstick in YARDSTICKS if not yardstick.follows_winner]
SMALL = {"backbone": "resnet18", "weights": "none", "tuning": "frozen", "width": 16}
RECIPE = RunConfig.from_mapping({**SMALL, "epochs": 3, "batch": 8, "lr": 0.02})


def speech(seed: int = 0, columns: int = COLUMNS) -> tuple[Array, npt.NDArray[np.int64]]:
    """Rows that lean to their emotion and to their speaker, and the emotions."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(7), 2), SPEAKERS)
    owner = np.repeat(np.arange(SPEAKERS), EACH)
    rows = random.normal(size=(7, columns))[labels] * 0.35
    rows += random.normal(size=(SPEAKERS, columns))[owner]
    return (rows + random.normal(size=rows.shape)).astype(np.float32), labels


def people() -> list[str]:
    return [f"s{i}" for i in np.repeat(np.arange(SPEAKERS), EACH)]


def store(modality: str, statistics: Array | None) -> Store:
    _, labels = speech()
    n = len(labels)
    return Store(
        folder=Path(f"/stores/{modality}"),
        corpus="savee",
        modality=modality,
        settings={},
        fingerprint=modality,
        images=np.zeros((n, 4, 4, 1), np.uint8),
        emotions=labels,
        speakers=list(people()),
        utterances=[f"u{i}" for i in range(n)],
        parts=[None] * n,
        files=[f"{i}.wav" for i in range(n)],
        contents=[f"{i:064x}" for i in range(n)],
        statistics=statistics,
    )


def made(statistics: Array | None, features: Array | None) -> YardstickData:
    task = Task((store("acoustic", statistics),), (store("visual", None),))
    parts = split(task, SplitConfig())
    if features is None:
        return YardstickData(task, parts, None)
    domain = Domain((torch.from_numpy(features),), task.samples("acoustic").labels)
    data = TrainingData(
        domain,
        domain,
        parts.visual_train,
        parts.acoustic_train,
        parts.acoustic_validation,
        Weights("resnet18", None, ""),
        "",
    )
    return YardstickData(task, parts, features, data)


def test_the_regression_is_scikit_learns() -> None:
    features, labels = speech(columns=64)
    data = made(None, features)
    train, part = data.split.acoustic_train, data.split.acoustic_validation
    found = yardstick_predictions(BY_NAME[LOGISTIC_REGRESSION], data, part)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features[train], labels[train])
    np.testing.assert_array_equal(found.predicted, model.predict(features[part]))
    np.testing.assert_allclose(found.probabilities, model.predict_proba(features[part]), atol=1e-6)
    assert 0.2 < found.measures().uar < 1


def test_the_machine_is_scikit_learns_with_the_best_of_its_settings() -> None:
    """Cross-validation by plain calls, on the same folds: one machine a setting and fold, with
    the kernel that SVC computes by itself."""
    statistics, labels = speech()
    parts = list(folds(labels, people()))
    values = []
    for setting in SETTINGS:
        weight = "balanced" if setting.balanced else None
        plain = make_pipeline(StandardScaler(), SVC(C=setting.c, class_weight=weight))
        answers = cross_val_predict(plain, statistics.astype(np.float64), labels, cv=parts)
        values.append(recall_score(labels, answers, average="macro"))
    assert max(values) > min(values) + 0.02, "nothing to choose"
    best = SETTINGS[int(np.argmax(values))]
    assert choose_setting(statistics, labels, people()) == best

    other, _ = speech(seed=1)
    weight = "balanced" if best.balanced else None
    plain = make_pipeline(StandardScaler(), SVC(C=best.c, class_weight=weight))
    plain.fit(statistics.astype(np.float64), labels)
    found = fit_mfcc_svm(statistics, labels, people())(other)
    np.testing.assert_array_equal(found.argmax(1), plain.predict(other.astype(np.float64)))
    assert set(found.ravel()) == {0.0, 1.0} and (found.sum(1) == 1).all()


def test_weights_are_chosen_where_they_help() -> None:
    """Of a class that is rare and hard to tell from a frequent one."""
    random = np.random.default_rng(0)
    labels = np.array([0] * 180 + [1] * 20)
    statistics = random.normal(size=(200, 6)).astype(np.float32)
    statistics[:, 0] += 1.5 * labels
    assert choose_setting(statistics, labels, [None] * 200).balanced
    statistics[:, 0] += 20 * labels
    assert not choose_setting(statistics, labels, [None] * 200).balanced


def test_folds_hold_out_whole_speakers() -> None:
    _, labels = speech()
    owner = np.array(people())
    held_out = []
    for rest, part in folds(labels, people()):
        assert not set(owner[rest]) & set(owner[part])
        assert sorted([*rest, *part]) == list(range(len(labels)))
        held_out += part.tolist()
    assert sorted(held_out) == list(range(len(labels)))


@pytest.mark.parametrize("unknown", ["all", "one", "single"])
def test_without_speakers_folds_are_by_utterance(unknown: str) -> None:
    _, labels = speech()
    names: list[str | None] = [*people()]
    if unknown == "one":
        names[3] = None
    else:
        names = ["s" if unknown == "single" else None] * len(labels)
    parts = list(folds(labels, names))
    assert len(parts) == 5
    for _, part in parts:  # of 16 utterances of each emotion
        assert set(np.bincount(labels[part])) <= {3, 4}


def test_hardly_any_utterances_are_enough() -> None:
    statistics = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    for labels in ([0, 1, 2], [0, 0, 1]):
        for names in (["a", "b", "c"], [None] * 3):
            model = fit_mfcc_svm(statistics, np.array(labels), names)
            assert model(statistics).shape == (3, 7)
    assert choose_setting(statistics, np.array([0, 1, 2]), [None] * 3) == SvmSetting()


def test_many_utterances_are_compared_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfcc_svm, "_MOST", 60)
    statistics, labels = speech()
    sizes = []
    plain = mfcc_svm._kernels

    def counted(train: npt.NDArray[np.float64], held_out: npt.NDArray[np.float64]) -> object:
        sizes.append(len(train) + len(held_out))
        return plain(train, held_out)

    monkeypatch.setattr(mfcc_svm, "_kernels", counted)
    first = choose_setting(statistics, labels, people())
    assert sizes == [60] * len(sizes) and sizes
    assert choose_setting(statistics, labels, people()) == first, "the same ones each time"


def test_nothing_outside_the_training_part_is_looked_at() -> None:
    """Poison in the test part, and in the rest of the validation part, changes no answer."""
    statistics, _ = speech()
    features, _ = speech(seed=3, columns=64)
    clean = made(statistics, features)
    part = clean.split.acoustic_validation[:5]
    poisoned = np.setdiff1d(np.arange(len(statistics)), [*clean.split.acoustic_train, *part])
    assert set(clean.split.acoustic_test) <= set(poisoned)
    bad = [rows.copy() for rows in (statistics, features)]
    for rows in bad:
        rows[poisoned] = np.nan
    spoilt = made(*bad)
    labels = spoilt.task.samples("acoustic").labels
    labels[poisoned] = 0
    for yardstick in BEFORE:
        alone, found = (yardstick_predictions(yardstick, d, part) for d in (clean, spoilt))
        np.testing.assert_array_equal(found.probabilities, alone.probabilities)
        with pytest.raises(ValueError, match="NaN"):  # the poison is there
            yardstick_predictions(yardstick, spoilt, spoilt.split.acoustic_test)


def test_answers_are_the_same_each_time_and_are_stored_as_a_models_are(tmp_path: Path) -> None:
    statistics, _ = speech()
    data = made(statistics, statistics)
    for yardstick in BEFORE:
        part = data.split.acoustic_test
        one, other = (yardstick_predictions(yardstick, data, part) for _ in range(2))
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        one.write(tmp_path / "a.csv")
        stored = Predictions.read(tmp_path / "a.csv")
        np.testing.assert_array_equal(stored.probabilities, one.probabilities)
        assert stored.contents == tuple(data.task.samples("acoustic").contents[i] for i in part)


def test_what_is_missing_is_said() -> None:
    statistics, _ = speech()
    assert {y.name: y.missing(made(statistics, statistics)) for y in YARDSTICKS} == {
        LOGISTIC_REGRESSION: "",
        MFCC_SVM: "",
        SPEECH_ALONE: "its recipe is the winner's",
    }
    nothing = made(None, None)
    assert "no frozen features" in BY_NAME[LOGISTIC_REGRESSION].missing(nothing)
    assert "/stores/acoustic is of an earlier release" in BY_NAME[MFCC_SVM].missing(nothing)
    alone = made(statistics, statistics)
    alone.task.samples("acoustic").labels[alone.split.acoustic_train] = 3
    alone = replace(alone, recipe=RECIPE)
    assert {y.missing(alone) for y in YARDSTICKS} == {"its training part has one emotion"}
    tuned = replace(made(statistics, statistics), features=None)
    for tuning in ("full", "last"):  # the regression is asked, whatever the winner trains
        recipe = replace(RECIPE, model=replace(RECIPE.model, tuning=tuning))
        recipes = replace(tuned, recipe=recipe)
        assert not BY_NAME[LOGISTIC_REGRESSION].missing(recipes)
        assert "--system speech" in BY_NAME[SPEECH_ALONE].missing(recipes)
    recipe = replace(RECIPE, model=replace(RECIPE.model, system="speech"))
    assert "itself" in BY_NAME[SPEECH_ALONE].missing(replace(tuned, recipe=recipe))


def test_speech_alone_is_the_recipe_without_faces() -> None:
    features, _ = speech(seed=3, columns=512)
    data = replace(made(None, features), recipe=RECIPE)
    assert data.features is not None
    other = replace(data.features.visual, arrays=(torch.randn(len(features), 512),))
    without = replace(data, features=replace(data.features, visual=other))
    part = data.split.acoustic_test
    found = [yardstick_predictions(BY_NAME[SPEECH_ALONE], d, part) for d in (data, without)]
    np.testing.assert_array_equal(found[0].probabilities, found[1].probabilities)
    run = replace(RECIPE, model=replace(RECIPE.model, system="speech"))
    network = restore_network(train(run, data.features, lambda *_: None)).eval()
    logits = predict_logits(network, data.features.acoustic, part, ())
    np.testing.assert_array_equal(found[0].predicted, logits.argmax(1).numpy())
    assert found[0].measures().uar > 2 / 7


def test_speakers_of_two_corpora_are_not_mixed_up() -> None:
    first = store("acoustic", speech()[0])
    second = replace(first, corpus="meld", folder=Path("/stores/meld"))
    task = Task((first, second), (store("visual", None),))
    names = task.samples("acoustic").people
    assert names[0] == "savee/s0" and names[len(first)] == "meld/s0"
    assert task.statistics is not None and len(task.statistics) == 2 * len(first)
    older = Task((first, replace(second, statistics=None)), task.visual)
    assert older.statistics is None
