"""After a study's last driver: which trials are trained again without any fault, and how that
went."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.chaos.invariants import COMPARED
from benchmarks.chaos.material import Material
from benchmarks.chaos.stores import Trial
from benchmarks.chaos.subject import ROOT, THREADS


def to_compare(trials: Sequence[Trial], interruptions: Counter[int]) -> list[Trial]:
    """The best trial, the best one that was interrupted, and the one that was interrupted most."""
    complete = [trial for trial in trials if trial.state == "COMPLETE" and trial.value is not None]
    disturbed = [trial for trial in complete if interruptions[trial.number]]
    chosen = [_best(some) for some in (complete, disturbed) if some]
    if disturbed:
        chosen.append(max(disturbed, key=lambda t: (interruptions[t.number], len(t.values))))
    return sorted({t.number: t for t in chosen}.values(), key=lambda trial: trial.number)


def undisturbed(
    settings: Mapping[int, Mapping[str, Any]], material: Material
) -> dict[int, dict[int, dict[str, float]]]:
    """Trial -> epoch -> the compared metrics, of these settings trained in a process of their own
    to which nothing happens."""
    if not settings:
        return {}
    job = {
        "acoustic": material.acoustic,
        "visual": material.visual,
        "split": material.split,
        "features": material.features,
        "threads": THREADS,
        "runs": settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos.undisturbed"],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=True,
    )
    found: dict[int, dict[int, dict[str, float]]] = {}
    for line in done.stdout.splitlines():
        number, epoch, metrics = json.loads(line)
        found.setdefault(int(number), {})[epoch] = {key: metrics[key] for key in COMPARED}
    return found


def _best(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: (trial.value or 0.0, -trial.number))
