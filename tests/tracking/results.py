"""Results of studies that were never run, of every shape that a report has to tell about."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fdan.emotions import EMOTIONS
from fdan.run_config import RunConfig
from tracking.result import Result

SPACE: dict[str, dict[str, Any]] = {
    "alpha": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
    "decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
    "layers": {"type": "int", "low": 0, "high": 3, "log": False},
    "kernels": {"type": "int", "low": 1, "high": 7, "log": False},
    "ratio": {"type": "float", "low": 1.25, "high": 4.0, "log": False},
    "scale": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
    "lr": {"type": "float", "low": 3e-4, "high": 3e-2, "log": True},
}
WIDE: dict[str, dict[str, Any]] = {
    **SPACE,
    "momentum": {"type": "float", "low": 0.5, "high": 0.99, "log": False},
    "augment": {"type": "categorical", "choices": [True, False]},
    "width": {"type": "categorical", "choices": [128, 256, 512]},
    "heads": {"type": "categorical", "choices": [1, 2, 4, 8]},
    "context": {"type": "categorical", "choices": ["bank", "none", None]},
}
HOSTILE = "</title><script>alert(1)</script>\"'&|`*_[x](javascript:alert(1))\udcff\x00\n# boo"


def result(
    trials: int = 20,
    *,
    space: dict[str, dict[str, Any]] | None = None,
    confirm: int = 3,
    seeds: int = 3,
    test: bool = True,
    seed: int = 0,
    epochs: int = 30,
    failing: float = 0.08,
    pruning: float = 0.5,
    points: int = 120,
) -> Result:
    """A study of so many trials, `confirm` of whose settings (0: none) ran again with `seeds`."""
    random = np.random.default_rng(seed)
    space = SPACE if space is None else space
    held = [_trial(n, random, space, epochs, failing, pruning) for n in range(trials)]
    complete = sorted((t for t in held if t["state"] == "COMPLETE"), key=lambda t: -t["value"])
    counts = {
        state: sum(t["state"] == state for t in held) for state in ("COMPLETE", "PRUNED", "FAIL")
    }
    confirmed = _confirm(complete[:confirm], random, seeds) if confirm and complete else None
    test = test and bool(complete)
    matrix = _confusion(random, 12).tolist() if complete else None
    on_test = _confusion(random, 9).tolist() if test else None
    return Result(
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
        unreadable=[
            {"path": "AudioData/DC/a07.wav", "reason": "no sound in it: 0 samples"},
            {"path": "VisualData/KL/h03.avi", "reason": "cut off after 14 kB"},
        ],
        baseline=0.6746,
        versions={"python": "3.11.9", "torch": "2.15.0", "optuna": "5.0.0", "mlflow": "3.17.2"},
        git="9868463f0a3d+",
        cost={
            "device": "cpu",
            "trial_seconds": sum(t["seconds"] for t in held),
            "confirm_seconds": 41.5 if confirmed else 0.0,
            "epochs_trained": sum(t["epochs"] for t in held),
            "epochs_planned": epochs * (counts["COMPLETE"] + counts["PRUNED"]),
        },
        trials=held,
        importances=_importances(space, len(complete)),
        curves={str(t["number"]): _curves(t, random) for t in complete[:10]},
        embedding=_embedding(random, points) if complete else None,
        confusion={"validation": matrix, "test": on_test},
        confirm=confirmed,
        test=_test(on_test, confirmed, complete) if on_test is not None else None,
        checks=[
            {"name": "no trial is left RUNNING", "ok": True, "detail": f"{trials} ended"},
            {"name": "test part unseen", "ok": True, "detail": "0 of 63 utterances in training"},
            {"name": "every epoch has one record", "ok": True, "detail": "412 of 412"},
        ],
    )


def shapes() -> dict[str, Result]:
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
            cost={**whole.cost, "device": "NVIDIA H100 80GB HBM3", "trial_seconds": 4.1e5},
            tracking_uri="http://tracking.example:5000",
            study="savee-wide",
        ),
    }


def hostile(of: Result) -> Result:
    """Names, reasons and settings that would break out of a page."""
    trials = [
        {**t, "reason": HOSTILE, "params": {**t["params"], HOSTILE: HOSTILE}} for t in of.trials
    ]
    assert of.confirm is not None and of.test is not None and of.embedding is not None
    settings = [{**s, "params": {HOSTILE: HOSTILE}} for s in of.confirm["settings"]]
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
        space={**of.space, HOSTILE: {"type": "categorical", "choices": [HOSTILE, "x"]}},
        fixed={HOSTILE: HOSTILE},
        trials=trials,
        parts=[
            {**p, "part": HOSTILE, "speakers": {HOSTILE: 3}, "emotions": {HOSTILE: 1}}
            for p in of.parts
        ],
        unreadable=[{"path": HOSTILE * 9, "reason": HOSTILE}],
        versions={HOSTILE: HOSTILE},
        confirm={**of.confirm, "settings": settings},
        cost={**of.cost, "device": HOSTILE},
        checks=[{"name": HOSTILE, "ok": False, "detail": HOSTILE}],
        importances={
            "method": HOSTILE,
            "trials": 9,
            "enough": False,
            "values": {HOSTILE: {"mean": 0.5, "low": 0.1, "high": 0.9}},
        },
        embedding={
            "method": HOSTILE,
            "part": HOSTILE,
            "points": [{**p, "speaker": HOSTILE} for p in of.embedding["points"]],
        },
        test={
            **of.test,
            "scored": HOSTILE,
            "per_speaker": {HOSTILE: {"uar": 0.5, "war": 0.5, "samples": 3}},
            "again": [{"when": HOSTILE, "reason": HOSTILE, "uar": 0.4}],
            "model_sha256": HOSTILE,
        },
    )


def non_finite(of: Result) -> Result:
    """NaN and infinity wherever a number stands, and trials with none at all."""
    odd = (math.nan, math.inf, -math.inf)
    trials = []
    for n, t in enumerate(of.trials):
        bad = odd[n % 3]
        params = {k: bad if k == "lr" and n % 2 else v for k, v in t["params"].items()}
        trials.append({**t, "params": params, "values": [*t["values"], [31, bad]]})
    trials[1] = {**trials[1], "state": "COMPLETE", "value": math.nan}
    assert of.confirm is not None and of.embedding is not None
    settings = [
        {**s, "low": math.nan, "high": math.nan, "values": [*s["values"], math.inf]}
        for s in of.confirm["settings"]
    ]
    return replace(
        of,
        trials=trials,
        baseline=math.nan,
        confirm={**of.confirm, "settings": settings},
        curves={k: {"validation/loss": [[1, math.nan], [2, math.inf]]} for k in of.curves},
        embedding={
            **of.embedding,
            "points": [{**p, "x": math.nan} for p in of.embedding["points"]],
        },
        importances={
            **of.importances,
            "values": {
                k: {"mean": math.nan, "low": 0, "high": 1} for k in of.importances["values"]
            },
        },
    )


def bare(of: Result) -> Result:
    """Everything that may be absent is."""
    return replace(
        of,
        reason="",
        page=None,
        space={},
        fixed={},
        parts=[],
        unreadable=[],
        baseline=None,
        versions={},
        git="",
        trials=[{**t, "params": {}, "reason": ""} for t in of.trials],
        importances={"method": "PED-ANOVA", "trials": 0, "enough": False, "values": {}},
        curves={},
        embedding=None,
        confusion={"validation": None, "test": None},
        confirm=None,
        test=None,
        checks=[],
    )


def _alike(of: Result) -> Result:
    """Two trials of one value: nothing on an axis differs."""
    trials = [
        {**t, "value": 0.5, "params": of.trials[0]["params"], "values": [[1, 0.5]]}
        for t in of.trials
    ]
    return replace(of, trials=trials)


def _trial(
    number: int,
    random: np.random.Generator,
    space: dict[str, dict[str, Any]],
    epochs: int,
    failing: float,
    pruning: float,
) -> dict[str, Any]:
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
    values = [
        [e, round(1 / 7 + (top - 1 / 7) * (1 - math.exp(-e / 5)) + 0.01 * random.normal(), 5)]
        for e in range(1, end + 1)
    ]
    return {
        "number": number,
        "state": state,
        "reason": reason,
        "params": params,
        "value": values[-1][1] if state == "COMPLETE" else None,
        "epochs": end,
        "seconds": round(0.21 * end + 0.4 * random.random(), 3),
        "interruptions": int(random.random() < 0.05),
        "values": values,
    }


def _draw(random: np.random.Generator, dimension: dict[str, Any]) -> Any:
    if dimension["type"] == "categorical":
        return dimension["choices"][int(random.integers(len(dimension["choices"])))]
    if dimension["type"] == "int":
        return int(random.integers(dimension["low"], dimension["high"] + 1))
    low, high = dimension["low"], dimension["high"]
    if dimension["log"]:
        return float(math.exp(random.uniform(math.log(low), math.log(high))))
    return float(random.uniform(low, high))


def _confirm(
    trials: list[dict[str, Any]], random: np.random.Generator, seeds: int
) -> dict[str, Any]:
    settings = []
    for trial in trials:
        values = (trial["value"] - 0.012 + 0.014 * random.normal(size=seeds)).tolist()
        mean = sum(values) / seeds
        half = 4.3 * float(np.std(values, ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
        settings.append(
            {
                "trial": trial["number"],
                "params": trial["params"],
                "search_value": trial["value"],
                "values": values,
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
                "optimism": trial["value"] - mean,
            }
        )
    settings.sort(key=lambda one: -one["mean"])
    return {
        "seeds": [1000 + n for n in range(seeds)],
        "settings": settings,
        "winner": settings[0]["trial"],
        "run": 0,
        "seed": 1000,
    }


def _confusion(random: np.random.Generator, each: int) -> np.ndarray:
    matrix = np.zeros((7, 7), dtype=np.int64)
    for row in range(7):
        chances = np.full(7, 0.05)
        chances[row], chances[(row + 3) % 7] = 0.62, 0.13
        for column in random.choice(7, size=each, p=chances / chances.sum()):
            matrix[row, column] += 1
    return matrix


def _test(
    confusion: list[list[int]], confirmed: dict[str, Any] | None, complete: list[dict[str, Any]]
) -> dict[str, Any]:
    of = {"trial": complete[0]["number"], "run": None, "seed": 0}
    if confirmed is not None:
        of = {"trial": confirmed["winner"], "run": confirmed["run"], "seed": confirmed["seed"]}
    matrix = np.array(confusion)
    recall = np.diag(matrix) / matrix.sum(1)
    precision = np.diag(matrix) / np.maximum(matrix.sum(0), 1)
    uar = float(recall.mean())
    return {
        **of,
        "scored": "2026-11-22T19:31:20+00:00",
        "samples": int(matrix.sum()),
        "war": float(np.diag(matrix).sum() / matrix.sum()),
        "uar": uar,
        "wf1": uar - 0.004,
        "interval": {
            "low": uar - 0.09,
            "high": uar + 0.08,
            "level": 0.95,
            "groups": 3,
            "by": "speaker",
        },
        "per_class": {
            emotion: {
                "recall": float(recall[i]),
                "precision": float(precision[i]),
                "samples": int(matrix[i].sum()),
            }
            for i, emotion in enumerate(EMOTIONS)
        },
        "per_speaker": {
            name: {"uar": uar + shift, "war": uar + shift, "samples": 21}
            for name, shift in (("AD", 0.04), ("BK", -0.07), ("KF", 0.03))
        },
        "baseline_uar": 0.571,
        "model_sha256": "d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592",
        "again": [],
    }


def _importances(space: dict[str, dict[str, Any]], complete: int) -> dict[str, Any]:
    shares = 0.5 ** np.arange(1, len(space) + 1)
    names = sorted(space, key=lambda name: (name != "lr", name))
    values = {
        name: {
            "mean": float(share / shares.sum()),
            "low": float(share / shares.sum() * 0.4),
            "high": float(min(1, share / shares.sum() * 1.5 + 0.03)),
        }
        for name, share in zip(names, shares, strict=True)
    }
    return {
        "method": "PED-ANOVA, best quarter of the complete trials",
        "trials": complete,
        "enough": complete >= 20,
        "values": values if complete > 1 else {},
    }


def _curves(trial: dict[str, Any], random: np.random.Generator) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {"value": trial["values"]}
    for key, start, end in (
        ("validation/uar", 0.15, trial["value"]),
        ("validation/loss", 1.95, 1.1),
        ("train/loss", 3.9, 1.2),
        ("train/lmmd", 0.4, 0.05),
    ):
        found[key] = [
            [e, end + (start - end) * math.exp(-e / 6) + 0.02 * random.normal()]
            for e in range(1, trial["epochs"] + 1)
        ]
    return found


def _embedding(random: np.random.Generator, points: int) -> dict[str, Any] | None:
    if not points:
        return None
    centres = random.normal(size=(7, 2)) * 20
    found = []
    for n in range(points):
        x, y = centres[n % 7] + random.normal(size=2) * 5
        modality = "acoustic" if n < points // 2 else "visual"
        found.append(
            {
                "x": round(float(x), 3),
                "y": round(float(y), 3),
                "emotion": EMOTIONS[n % 7],
                "speaker": ("AD", "BK", None)[n % 3],
                "modality": modality,
            }
        )
    return {"method": "t-SNE", "part": "validation", "points": found}


def _parts() -> list[dict[str, Any]]:
    def part(name: str, modality: str, each: int, speakers: tuple[str, ...]) -> dict[str, Any]:
        emotions = {emotion: each + (emotion == "neutral") * each for emotion in EMOTIONS}
        share = sum(emotions.values()) // len(speakers)
        return {
            "part": name,
            "modality": modality,
            "emotions": emotions,
            "speakers": dict.fromkeys(speakers, share),
        }

    return [
        part("train", "visual", 54, ("CL", "DC", "EH", "GM", "HN", "JE")),
        part("train", "acoustic", 18, ("CL", "DC", "EH", "GM", "HN", "JE")),
        part("validation", "acoustic", 9, ("JK", "KL", "MS")),
        part("test", "acoustic", 9, ("AD", "BK", "KF")),
    ]
