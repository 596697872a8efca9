"""This project's `python search/run.py`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.chaos.processes import Process
from benchmarks.chaos.reading import (
    Logged,
    grouped,
    read_database,
    read_journal,
    read_lines,
    read_mlflow,
)
from benchmarks.chaos.stores import Point, Run, Stores, Trial
from benchmarks.chaos.subject import AT_ONCE, ROOT, THREADS, Ground, Study
from tracking.tags import STATE, STUDY, TRIAL

_PNG_END: Final = b"IEND\xaeB`\x82"

EXPERIMENT: Final = "fdan-search"


class Ours:
    """The study's folder holds Optuna's journal, the spool, and a folder for each trial."""

    name = "ours"
    extends = True
    statuses: Final = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    parents = 1
    stops_early = False
    last_in_optuna = True
    artifacts: Final = frozenset(("config.json", "learning_curve.png", "confusion_matrix.png"))

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def study(self, name: str, trials: int, storage: str | None) -> Study:
        folder = self._ground.folder / "runs" / name
        return Study(name, folder, trials, storage, {"PYTHONPATH": str(ROOT)})

    def command(self, study: Study) -> list[str]:
        material = self._ground.material
        words = {
            "--runs": material.runs,
            "--task": f"demo:{material.corpus}",
            "--study": study.name,
            "--trials": study.trials,
            "--epochs": self._ground.epochs,
            "--seed": self._ground.seed,
            "--concurrent": AT_ONCE,
            "--cpus-per-trial": THREADS,
            "--device": "cpu",
            "--folds": "none",
            "--tracking-uri": self._ground.tracking_uri,
        }
        if study.storage is not None:
            words["--storage"] = study.storage
        pairs = [str(word) for pair in words.items() for word in pair]
        return [sys.executable, str(ROOT / "search" / "run.py"), *pairs]

    def trials(self, study: Study) -> tuple[Trial, ...]:
        if study.storage is not None:
            return read_database(study.storage, study.name)
        return read_journal(study.folder / "journal.log", study.name)

    def stores(self, study: Study) -> Stores:
        trials = self.trials(study)
        runs = [self._run(logged) for logged in self._logged(study)]
        return Stores(
            trials,
            tuple(run for run in runs if run.trial is not None),
            tuple(run for run in runs if run.trial is None),
        )

    def promised(self, study: Study) -> dict[Point, float]:
        found = {}
        for logged in self._logged(study):
            run = self._run(logged)
            for row in run.rows:
                if run.trial is not None:
                    found[Point(run.trial, row.key, row.step)] = row.value
        for file in sorted((study.folder / "spool").glob("*.jsonl")):
            for line in read_lines(file):
                if line["k"] == "metrics" and line["r"].isdecimal():
                    for key, value in line["d"]["values"].items():
                        point = Point(int(line["r"]), key, line["d"]["step"])
                        found.setdefault(point, float(value))
        return found

    def trial_of(self, worker: Process) -> int | None:
        # It holds the lock in its trial's folder.
        for path in worker.files:
            if match := re.search(r"/trials/(\d+)/", path):
                return int(match[1])
        return None

    def phase_of(self, worker: Process) -> str:
        # It has its trial's log open.
        training = any(path.endswith("/reports.jsonl") for path in worker.files)
        return "training" if training else "loading"

    def saved(self, study: Study) -> dict[int, int]:
        found = {}
        for file in study.folder.glob("trials/*/checkpoint/checkpoint.json"):
            with contextlib.suppress(FileNotFoundError):  # it is dropped when a trial has ended
                epoch = json.loads(file.read_text(encoding="utf-8"))["epoch"]
                found[int(file.parts[-3])] = epoch
        return found

    def settings(self, study: Study, trial: Trial) -> dict[str, Any]:
        identity = json.loads((study.folder / "study.json").read_text(encoding="utf-8"))
        return {**identity["fixed"], **trial.params, "seed": identity["seed"]}

    def trained(self, study: Study) -> dict[int, Counter[int]]:
        return grouped(
            [
                (int(file.parent.name), line["epoch"])
                for file in sorted(study.folder.glob("trials/*/reports.jsonl"))
                for line in read_lines(file)
            ]
        )

    def _logged(self, study: Study) -> list[Logged]:
        return read_mlflow(self._ground.database, experiment=EXPERIMENT, tags={STUDY: study.name})

    def _run(self, logged: Logged) -> Run:
        trial = logged.tags.get(TRIAL, "")
        return Run(
            logged.id,
            int(trial) if trial.isdecimal() else None,
            logged.status,
            tuple(logged.rows),
            logged.tags.get(STATE),
            logged.params,
            frozenset(
                file.name
                for file in self._ground.artifacts.glob(f"*/{logged.id}/artifacts/*")
                if _is_whole(file)
            ),
        )


def _is_whole(file: Path) -> bool:
    """As far as its last bytes tell; the study's own run has folders, too."""
    if not file.is_file():
        return False
    end = file.read_bytes()[-8:]
    return end.endswith(_PNG_END) if file.suffix == ".png" else end.endswith(b"}\n")
