"""python -m benchmarks.chaos.undisturbed < JOB: train settings from the first epoch to the last in
a process to which nothing happens, and print each epoch's metrics as a JSON line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fdan.data.split import SplitConfig, split
from fdan.data.store import open_store
from fdan.data.task import Task
from fdan.run_config import RunConfig
from fdan.training.train import EpochReport, train
from fdan.training.training_data import TrainingData, load_training_data


def data_of(job: dict[str, Any], run: RunConfig) -> TrainingData:
    """acoustic, visual: stores; split: a SplitConfig; features: where frozen features are kept."""
    import torch

    task = Task((open_store(Path(job["acoustic"])),), (open_store(Path(job["visual"])),))
    parts = split(task, SplitConfig.from_mapping(job["split"]))
    return load_training_data(task, parts, run, torch.device("cpu"), Path(job["features"]))


def main() -> None:
    import torch

    job = json.load(sys.stdin)
    torch.set_num_threads(job["threads"])
    for name, settings in job["runs"].items():
        run = RunConfig.from_mapping(settings)

        def tell(report: EpochReport, _: object, name: str = name) -> None:
            print(json.dumps([name, report.epoch, report.metrics]), flush=True)

        train(run, data_of(job, run), tell)


if __name__ == "__main__":
    main()
