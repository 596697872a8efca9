"""Results of studies that were never run, of every shape that a report has to tell about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fdan.emotions import EMOTIONS
from fdan.evaluation.statistics import mean_interval
from fdan.run_config import RunConfig
from tracking.result import (
    BUDGET,
    LARGER,
    SMALLER,
    UNKNOWN,
    UNSEEN,
    Behind,
    Check,
    Choices,
    ClassScore,
    Confirmation,
    ConfirmedSetting,
    Confusions,
    Cost,
    Curve,
    Dimension,
    Effect,
    EmbeddedPoint,
    Embedding,
    Importance,
    Importances,
    Matrix,
    PairedDifference,
    Part,
    Range,
    Rescoring,
    ScoreInterval,
    SpeakerScore,
    StudyResult,
    TestScore,
    TrialRecord,
    UnreadableFile,
    YardstickScore,
    YardstickUar,
)

SPACE: dict[str, Dimension] = {
    "alpha": Range("float", 1e-5, 1.0, True),
    "decay": Range("float", 1e-6, 1e-2, True),
    "layers": Range("int", 0, 3, False),
    "kernels": Range("int", 1, 7, False),
    "ratio": Range("float", 1.25, 4.0, False),
    "scale": Range("float", 0.1, 10.0, True),
    "lr": Range("float", 3e-4, 3e-2, True),
}
WIDE: dict[str, Dimension] = {
    **SPACE,
    "momentum": Range("float", 0.5, 0.99, False),
    "augment": Choices(
        "categorical",
        (
            True,
            False,
        ),
    ),
    "width": Choices(
        "categorical",
        (
            128,
            256,
            512,
        ),
    ),
    "heads": Choices(
        "categorical",
        (
            1,
            2,
            4,
            8,
        ),
    ),
    "context": Choices(
        "categorical",
        (
            "bank",
            "none",
            None,
        ),
    ),
}
HOSTILE = "</title><script>alert(1)</script>\"'&|`*_[x](javascript:alert(1))\udcff\x00\n# boo"


@dataclass(frozen=True)
class Shape:
    """A study to make up: `confirm` of its settings (0: none) ran again with `seeds`."""

    space: dict[str, Dimension] = field(default_factory=lambda: SPACE)
    confirm: int = 3
    seeds: int = 3
    test: bool = True
    seed: int = 0
    epochs: int = 30
    failing: float = 0.08
    pruning: float = 0.5
    points: int = 120


def result(trials: int = 20, **shape: Any) -> StudyResult:
    """A study of so many trials; shape: see Shape."""
    s = Shape(**shape)
    random, space, epochs = np.random.default_rng(s.seed), s.space, s.epochs
    held = tuple(_trial(n, random, space, epochs, s.failing, s.pruning) for n in range(trials))
    complete = sorted((t for t in held if t.state == "COMPLETE"), key=_value, reverse=True)
    counts = {
        state: sum(t.state == state for t in held) for state in ("COMPLETE", "PRUNED", "FAIL")
    }
    confirmed = _confirm(complete[: s.confirm], random, s.seeds) if s.confirm and complete else None
    test = s.test and bool(complete)
    matrix = _confusion(random, 12) if complete else None
    on_test = _confusion(random, 9) if test else None
    return StudyResult(
        study="demo",
        study_id="4f1c2b3a9d8e",
        experiment="fdan-search",
        task="DEMO{Dv,Da}",
        state="COMPLETE",
        reason=f"{trials} trials are done",
        wanted=trials,
        counts=counts,
        written="2026-11-22T19:31:27+00:00",
        command="python search/run.py --study demo --trials 20",
        tracking_uri="sqlite:////data/runs/mlflow.db",
        page="/#/experiments/1/runs?workflowType=machine_learning",
        space=space,
        fixed={k: v for k, v in RunConfig().as_dict().items() if k not in space},
        sampler="tpe",
        pruner="hyperband",
        epochs=epochs,
        origin={
            "task": "DEMO{Dv,Da}",
            "data": "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
            "stores": {"acoustic": [], "visual": []},
            "preparation": {"acoustic": {}, "visual": {}},
            "split": {"protocol": "speaker", "validation": 0.25, "test": None, "split_seed": 0},
        },
        parts=_parts(),
        unreadable=(
            UnreadableFile("AudioData/DC/a07.wav", "no sound in it: 0 samples"),
            UnreadableFile("VisualData/KL/h03.avi", "cut off after 14 kB"),
        ),
        baseline=0.6746,
        versions={"python": "3.11.9", "torch": "2.15.0", "optuna": "5.0.0", "mlflow": "3.17.2"},
        git="9868463f0a3d+",
        cost=Cost(
            device="cpu",
            trial_seconds=sum(t.seconds for t in held),
            confirm_seconds=41.5 if confirmed else 0.0,
            epochs_trained=sum(t.epochs for t in held),
            epochs_planned=epochs * (counts["COMPLETE"] + counts["PRUNED"]),
        ),
        trials=held,
        importances=_importances(space, len(complete)),
        curves={str(t.number): _curves(t, random) for t in complete[:10]},
        embedding=_embedding(random, s.points) if complete else None,
        confusion=Confusions(validation=matrix, test=on_test),
        confirm=confirmed,
        test=_test(on_test, confirmed, complete) if on_test is not None else None,
        checks=(
            Check("no trial is left RUNNING", True, f"{trials} ended"),
            Check("test part unseen", True, "0 of 63 utterances in training"),
            Check("every epoch has one record", True, "412 of 412"),
        ),
        effects=_effects(space) if complete else {},
    )


def _value(trial: TrialRecord) -> float:
    return 0.0 if trial.value is None else trial.value


def shapes() -> dict[str, StudyResult]:
    """One of each kind, by name."""
    whole = result()
    wide = result(40, space=WIDE, seed=3)
    failed = result(5, failing=1.0, confirm=0, test=False)
    return {
        "whole": whole,
        "large": result(200, seed=1, points=600),
        "wide": wide,
        "unconfirmed": result(confirm=0, test=False, seed=2),
        "unconfirmed-tested": result(confirm=0, seed=2),
        "one-seed": result(seeds=1, confirm=1),
        "untested": result(test=False),
        "one-trial": result(1, failing=0, pruning=0, confirm=1, points=0),
        "one-trial-alone": result(1, failing=0, pruning=0, confirm=0, test=False, points=0),
        "two-alike": _alike(result(2, failing=0, pruning=0, confirm=2)),
        "failures-only": failed,
        "pruned-only": result(6, failing=0, pruning=1.0, confirm=0, test=False),
        "no-trials": replace(result(0), reason="stopped before the first trial", state="PAUSED"),
        "hostile": hostile(whole),
        "non-finite": non_finite(wide),
        "bare": bare(whole),
        "gpu": replace(
            whole,
            cost=replace(whole.cost, device="NVIDIA H100 80GB HBM3", trial_seconds=4.1e5),
            tracking_uri="http://tracking.example:5000",
            study="savee-wide",
        ),
    }


def hostile(of: StudyResult) -> StudyResult:
    """Names, reasons and settings that would break out of a page."""
    trials = tuple(
        replace(t, reason=HOSTILE, params={**t.params, HOSTILE: HOSTILE}) for t in of.trials
    )
    assert of.confirm is not None and of.test is not None and of.embedding is not None
    settings = tuple(replace(s, params={HOSTILE: HOSTILE}) for s in of.confirm.settings)
    return replace(
        of,
        study=HOSTILE,
        task=HOSTILE,
        reason=HOSTILE,
        experiment=HOSTILE,
        command=HOSTILE,
        written=HOSTILE,
        git=HOSTILE,
        page=HOSTILE,
        tracking_uri="http://" + HOSTILE,
        sampler=HOSTILE,
        pruner=HOSTILE,
        space={
            **of.space,
            HOSTILE: Choices(
                "categorical",
                (
                    HOSTILE,
                    "x",
                ),
            ),
        },
        fixed={HOSTILE: HOSTILE},
        trials=trials,
        parts=tuple(
            replace(p, part=HOSTILE, speakers={HOSTILE: 3}, emotions={HOSTILE: 1}) for p in of.parts
        ),
        unreadable=(UnreadableFile(HOSTILE * 9, HOSTILE),),
        versions={HOSTILE: HOSTILE},
        confirm=replace(of.confirm, settings=settings),
        cost=replace(of.cost, device=HOSTILE),
        checks=(Check(HOSTILE, False, HOSTILE),),
        importances=Importances(HOSTILE, 9, False, {HOSTILE: Importance(0.5, 0.1, 0.9)}),
        embedding=Embedding(
            HOSTILE, HOSTILE, tuple(replace(p, speaker=HOSTILE) for p in of.embedding.points)
        ),
        test=replace(
            of.test,
            scored=HOSTILE,
            per_speaker={HOSTILE: SpeakerScore(0.5, 0.5, 3)},
            again=(Rescoring(HOSTILE, HOSTILE, 0.4, 0.3),),
            model_sha256=HOSTILE,
        ),
    )


def non_finite(of: StudyResult) -> StudyResult:
    """NaN and infinity wherever a number stands, and trials with none at all."""
    odd = (math.nan, math.inf, -math.inf)
    trials = []
    for n, t in enumerate(of.trials):
        bad = odd[n % 3]
        params = {k: bad if k == "lr" and n % 2 else v for k, v in t.params.items()}
        trials.append(replace(t, params=params, values=(*t.values, (31, bad))))
    trials[1] = replace(trials[1], state="COMPLETE", value=math.nan)
    assert of.confirm is not None and of.embedding is not None
    settings = tuple(
        replace(s, low=math.nan, high=math.nan, values=(*s.values, math.inf))
        for s in of.confirm.settings
    )
    return replace(
        of,
        trials=tuple(trials),
        baseline=math.nan,
        confirm=replace(of.confirm, settings=settings),
        curves={k: {"validation/loss": ((1, math.nan), (2, math.inf))} for k in of.curves},
        embedding=replace(
            of.embedding, points=tuple(replace(p, x=math.nan) for p in of.embedding.points)
        ),
        importances=replace(
            of.importances,
            values=dict.fromkeys(of.importances.values, Importance(math.nan, 0, 1)),
        ),
    )


def beside_yardsticks(of: StudyResult) -> StudyResult:
    """Two yardsticks: one that the winner beats, one that beats it."""
    assert of.test is not None
    scores = tuple(
        YardstickScore(
            name,
            title,
            of.test.uar - difference,
            ScoreInterval(of.test.uar - 0.2, of.test.uar + 0.2, 0.95, 3, "speaker"),
            PairedDifference(difference, difference - 0.05, difference + 0.06, p),
        )
        for name, title, difference, p in (
            ("logistic_regression", "logistic regression", 0.1234, 0.0021),
            ("mfcc_svm", "SVM on MFCC statistics", -0.0711, 0.0312),
        )
    )
    return replace(
        of,
        yardsticks=(
            YardstickUar("logistic_regression", "logistic regression", 0.4321),
            YardstickUar("mfcc_svm", "SVM on MFCC statistics", 0.9876),
        ),
        test=replace(of.test, yardsticks=scores),
    )


def bare(of: StudyResult) -> StudyResult:
    """Everything that may be absent is."""
    return replace(
        of,
        reason="",
        page=None,
        space={},
        fixed={},
        parts=(),
        unreadable=(),
        baseline=None,
        versions={},
        git="",
        trials=tuple(replace(t, params={}, reason="") for t in of.trials),
        importances=Importances("PED-ANOVA", 0, False, {}),
        curves={},
        embedding=None,
        confusion=Confusions(None, None),
        confirm=None,
        test=None,
        checks=(),
    )


def _alike(of: StudyResult) -> StudyResult:
    """Two trials of one value: nothing on an axis differs."""
    trials = tuple(
        replace(t, value=0.5, params=of.trials[0].params, values=((1, 0.5),)) for t in of.trials
    )
    return replace(of, trials=trials)


def _trial(
    number: int,
    random: np.random.Generator,
    space: dict[str, Dimension],
    epochs: int,
    failing: float,
    pruning: float,
) -> TrialRecord:
    params = {name: _draw(random, dimension) for name, dimension in space.items()}
    if params.get("kernels") == 1:
        del params["ratio"]
    if params.get("layers") == 0:
        params.pop("heads", None)
        params.pop("context", None)
    lr, alpha = params.get("lr", 0.01), params.get("alpha", 0.01)
    top = 0.68 - 0.09 * abs(math.log10(lr / 0.012)) ** 1.5 - 0.03 * max(0, math.log10(alpha / 0.05))
    top -= 0.015 * abs(params.get("layers", 1) - 1.5) + 0.012 * random.normal()
    state, reason, end = "COMPLETE", f"all {epochs} epochs are done", epochs
    drawn = random.random()
    if drawn < failing:
        state, end = "FAIL", int(random.integers(0, 9))
        reason = f"epoch {end + 1}, step {int(random.integers(9))}: train/lmmd is NaN"
    elif drawn < failing + pruning:
        state, end = "PRUNED", int(random.choice([3, 5, 9, 15]))
        reason = f"epoch {end}: value {top:.3f} not in the best third of its bracket (hyperband)"
    values = tuple(
        (e, round(1 / 7 + (top - 1 / 7) * (1 - math.exp(-e / 5)) + 0.01 * random.normal(), 5))
        for e in range(1, end + 1)
    )
    return TrialRecord(
        number=number,
        state=state,
        reason=reason,
        params=params,
        value=values[-1][1] if state == "COMPLETE" else None,
        epochs=end,
        seconds=round(0.21 * end + 0.4 * random.random(), 3),
        interruptions=int(random.random() < 0.05),
        values=values,
    )


def _draw(random: np.random.Generator, dimension: Dimension) -> Any:
    if isinstance(dimension, Choices):
        return dimension.choices[int(random.integers(len(dimension.choices)))]
    low, high = dimension.low, dimension.high
    if dimension.type == "int":
        return int(random.integers(int(low), int(high) + 1))
    if dimension.log:
        return float(math.exp(random.uniform(math.log(low), math.log(high))))
    return float(random.uniform(low, high))


def _confirm(
    trials: Sequence[TrialRecord], random: np.random.Generator, seeds: int
) -> Confirmation:
    settings = []
    for trial in trials:
        assert trial.value is not None
        values = (trial.value - 0.012 + 0.014 * random.normal(size=seeds)).tolist()
        mean = sum(values) / seeds
        half = 4.3 * float(np.std(values, ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
        settings.append(
            ConfirmedSetting(
                trial=trial.number,
                params=trial.params,
                search_value=trial.value,
                values=tuple(values),
                mean=mean,
                low=mean - half,
                high=mean + half,
                optimism=trial.value - mean,
            )
        )
    settings.sort(key=lambda setting: -setting.mean)
    first = settings[0]
    settings[1:] = [replace(one, behind=_behind(first, one)) for one in settings[1:]]
    return Confirmation(
        seeds=tuple(1000 + n for n in range(seeds)),
        settings=tuple(settings),
        winner=settings[0].trial,
        run=0,
        seed=1000,
        ended=BUDGET,
        runs=len(settings) * seeds,
        budget=len(settings) * seeds,
        seeds_each=seeds,
        noise=0.014 if seeds > 1 else None,
    )


def _behind(first: ConfirmedSetting, other: ConfirmedSetting) -> Behind | None:
    differences = [a - b for a, b in zip(first.values, other.values, strict=True)]
    if len(differences) < 2:
        return None
    interval = mean_interval(differences)
    return Behind(interval.value, interval.low, interval.high)


def _effects(space: dict[str, Dimension]) -> dict[str, Effect]:
    verdicts = (LARGER, SMALLER, UNSEEN, UNKNOWN)
    return {
        name: Effect(0.03 / (n + 1), min(1.0, 0.003 * 2**n), verdicts[n % 4])
        for n, name in enumerate(space)
    }


def _confusion(random: np.random.Generator, each: int) -> Matrix:
    matrix = np.zeros((7, 7), dtype=np.int64)
    for row in range(7):
        chances = np.full(7, 0.05)
        chances[row], chances[(row + 3) % 7] = 0.62, 0.13
        for column in random.choice(7, size=each, p=chances / chances.sum()):
            matrix[row, column] += 1
    return tuple(map(tuple, matrix.tolist()))


def _test(
    confusion: Matrix, confirmed: Confirmation | None, complete: Sequence[TrialRecord]
) -> TestScore:
    matrix = np.array(confusion)
    recall = np.diag(matrix) / matrix.sum(1)
    precision = np.diag(matrix) / np.maximum(matrix.sum(0), 1)
    uar = float(recall.mean())
    return TestScore(
        trial=complete[0].number if confirmed is None else confirmed.winner,
        run=None if confirmed is None else confirmed.run,
        seed=0 if confirmed is None else confirmed.seed,
        scored="2026-11-22T19:31:20+00:00",
        samples=int(matrix.sum()),
        war=float(np.diag(matrix).sum() / matrix.sum()),
        uar=uar,
        wf1=uar - 0.004,
        interval=ScoreInterval(uar - 0.09, uar + 0.08, 0.95, 3, "speaker"),
        per_class={
            emotion: ClassScore(float(recall[i]), float(precision[i]), int(matrix[i].sum()))
            for i, emotion in enumerate(EMOTIONS)
        },
        per_speaker={
            name: SpeakerScore(uar + shift, uar + shift, 21)
            for name, shift in (("AD", 0.04), ("BK", -0.07), ("KF", 0.03))
        },
        baseline_uar=0.571,
        model_sha256="d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592",
        again=(),
    )


def _importances(space: dict[str, Dimension], complete: int) -> Importances:
    shares = 0.5 ** np.arange(1, len(space) + 1)
    names = sorted(space, key=lambda name: (name != "lr", name))
    values = {
        name: Importance(
            mean=float(share / shares.sum()),
            low=float(share / shares.sum() * 0.4),
            high=float(min(1, share / shares.sum() * 1.5 + 0.03)),
        )
        for name, share in zip(names, shares, strict=True)
    }
    return Importances(
        method="PED-ANOVA, best quarter of the complete trials",
        trials=complete,
        enough=complete >= 20,
        values=values if complete > 1 else {},
    )


def _curves(trial: TrialRecord, random: np.random.Generator) -> dict[str, Curve]:
    assert trial.value is not None
    curves: dict[str, Curve] = {"value": trial.values}
    for key, start, end in (
        ("validation/uar", 0.15, trial.value),
        ("validation/loss", 1.95, 1.1),
        ("train/loss", 3.9, 1.2),
        ("train/lmmd", 0.4, 0.05),
    ):
        curves[key] = tuple(
            (e, end + (start - end) * math.exp(-e / 6) + 0.02 * random.normal())
            for e in range(1, trial.epochs + 1)
        )
    return curves


def _embedding(random: np.random.Generator, points: int) -> Embedding | None:
    if not points:
        return None
    centres = random.normal(size=(7, 2)) * 20
    found = []
    for n in range(points):
        x, y = centres[n % 7] + random.normal(size=2) * 5
        modality = "acoustic" if n < points // 2 else "visual"
        found.append(
            EmbeddedPoint(
                x=round(float(x), 3),
                y=round(float(y), 3),
                emotion=EMOTIONS[n % 7],
                speaker=("AD", "BK", None)[n % 3],
                modality=modality,
            )
        )
    return Embedding("t-SNE", "validation", tuple(found))


def _parts() -> tuple[Part, ...]:
    def part(name: str, modality: str, each: int, speakers: tuple[str, ...]) -> Part:
        emotions = {emotion: each + (emotion == "neutral") * each for emotion in EMOTIONS}
        share = sum(emotions.values()) // len(speakers)
        return Part(name, modality, emotions, dict.fromkeys(speakers, share))

    return (
        part("train", "visual", 54, ("CL", "DC", "EH", "GM", "HN", "JE")),
        part("train", "acoustic", 18, ("CL", "DC", "EH", "GM", "HN", "JE")),
        part("validation", "acoustic", 9, ("JK", "KL", "MS")),
        part("test", "acoustic", 9, ("AD", "BK", "KF")),
    )
