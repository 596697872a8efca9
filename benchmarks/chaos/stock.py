"""The peer: stock Ray Tune with its own OptunaSearch, ASHA, MLflowLoggerCallback and Tuner.restore,
put together in `stock_driver.py` as Ray's documentation tells a careful user to."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any, Final

from benchmarks.chaos.processes import Process
from benchmarks.chaos.reading import (
    by_params,
    grouped,
    key_of,
    read_database,
    read_journal,
    read_lines,
    read_mlflow,
)
from benchmarks.chaos.stores import Point, Run, Stores, Trial
from benchmarks.chaos.subject import AT_ONCE, ROOT, THREADS, Ground, Study


class Stock:
    """The study's folder holds Optuna's journal and Tune's experiment."""

    name = "stock"
    extends = False  # a restored experiment keeps its number of samples
    statuses: Final = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}
    parents = 0
    stops_early = True  # OptunaSearch knows no pruned trials
    artifacts: Final = frozenset[str]()
    last_in_optuna = False  # OptunaSearch never reports the result that ends a trial

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def study(self, name: str, trials: int, storage: str | None) -> Study:
        folder = self._ground.folder / "stock" / name
        return Study(name, folder, trials, storage, {"PYTHONPATH": str(ROOT)})

    def command(self, study: Study) -> list[str]:
        material = self._ground.material
        job = {
            "folder": str(study.folder),
            "name": study.name,
            "trials": study.trials,
            "epochs": self._ground.epochs,
            "seed": self._ground.seed,
            "at_once": AT_ONCE,
            "threads": THREADS,
            "storage": study.storage,
            "tracking_uri": self._ground.tracking_uri,
            "acoustic": material.acoustic,
            "visual": material.visual,
            "split": material.split,
            "features": material.features,
            "fixed": material.fixed,
        }
        return [sys.executable, "-m", "benchmarks.chaos.stock_driver", json.dumps(job)]

    def trials(self, study: Study) -> tuple[Trial, ...]:
        if study.storage is not None:
            return read_database(study.storage, study.name)
        return read_journal(study.folder / "journal.log", study.name)

    def stores(self, study: Study) -> Stores:
        trials = self.trials(study)
        number = by_params(trials)
        runs = [
            Run(
                run.id,
                number.get(key_of(run.params)),
                run.status,
                tuple(run.rows),
                params=run.params,
            )
            for run in read_mlflow(self._ground.database, experiment=study.name)
        ]
        return Stores(trials, tuple(runs))

    def promised(self, study: Study) -> dict[Point, float]:
        return {
            Point(run.trial, row.key, row.step): row.value
            for run in self.stores(study).runs
            if run.trial is not None
            for row in run.rows
        }

    def trial_of(self, worker: Process) -> int | None:
        return None

    def phase_of(self, worker: Process) -> str:
        return ""

    def saved(self, study: Study) -> dict[int, int]:
        return {}

    def settings(self, study: Study, trial: Trial) -> dict[str, Any]:
        runs = self.stores(study).runs_of(trial.number)
        last = max((row.step for run in runs for row in run.rows), default=1)
        fixed = {**self._ground.material.fixed, **trial.params}
        return {**fixed, "epochs": last, "seed": self._ground.seed}

    def trained(self, study: Study) -> dict[int, Counter[int]]:
        number = by_params(self.trials(study))
        lines = read_lines(study.folder / "trained.jsonl")
        pairs = [(number.get(key_of(line["params"])), line["epoch"]) for line in lines]
        return grouped([(trial, epoch) for trial, epoch in pairs if trial is not None])
