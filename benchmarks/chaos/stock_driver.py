"""python -m benchmarks.chaos.stock_driver JOB: a study of FDAN by stock Ray Tune, started or
restored. Everything is Ray's own; only what one epoch trains is ours."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

SPACE = {
    "alpha": optuna.distributions.FloatDistribution(1e-5, 1.0, log=True),
    "decay": optuna.distributions.FloatDistribution(1e-6, 1e-2, log=True),
    "layers": optuna.distributions.IntDistribution(0, 3),
    "kernels": optuna.distributions.IntDistribution(2, 7),
    "ratio": optuna.distributions.FloatDistribution(1.25, 4.0),
    "scale": optuna.distributions.FloatDistribution(0.1, 10.0, log=True),
    "lr": optuna.distributions.FloatDistribution(3e-4, 3e-2, log=True),
}
"""search/spaces/default.toml, as far as OptunaSearch can say it."""

_data: dict[str, Any] = {}
"""Kept from trial to trial: actors are reused."""


def trainable(job: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Every epoch is reported with a checkpoint, and a trial goes on from its newest one."""

    def stock_trial(config: dict[str, Any]) -> None:
        import torch

        from benchmarks.chaos.undisturbed import data_of
        from fdan.run_config import RunConfig
        from fdan.training.checkpoint import Checkpoint
        from fdan.training.train import EpochReport, train

        torch.set_num_threads(job["threads"])
        settings = {**job["fixed"], **config, "epochs": job["epochs"], "seed": job["seed"]}
        run = RunConfig.from_mapping(settings)
        if "data" not in _data:
            _data["data"] = data_of(job, run)
        resume = None
        if (newest := tune.get_checkpoint()) is not None:
            with newest.as_directory() as folder:
                resume = Checkpoint.load(Path(folder))

        def after_epoch(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
            # For the benchmark's own count of work done twice.
            line = json.dumps({"params": config, "epoch": epoch.epoch}) + "\n"
            with Path(job["folder"], "trained.jsonl").open("a", encoding="utf-8") as log:
                log.write(line)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint().save(Path(folder))
                tune.report(epoch.metrics, checkpoint=tune.Checkpoint.from_directory(folder))

        train(run, _data["data"], after_epoch, resume=resume)

    return stock_trial


def storage(job: dict[str, Any]) -> BaseStorage:
    if job["storage"] is not None:
        url = job["storage"].replace("postgresql://", "postgresql+psycopg2://")
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    return JournalStorage(JournalFileBackend(str(Path(job["folder"], "journal.log"))))


def tuner(job: dict[str, Any]) -> tune.Tuner:
    """A new one, or the one that was there before."""
    experiment = Path(job["folder"], "tune", job["name"])
    resources = tune.with_resources(trainable(job), {"cpu": job["threads"]})
    if tune.Tuner.can_restore(str(experiment)):
        return tune.Tuner.restore(
            str(experiment), trainable=resources, resume_unfinished=True, resume_errored=True
        )
    return tune.Tuner(
        resources,
        tune_config=tune.TuneConfig(
            metric="value",
            mode="max",
            search_alg=OptunaSearch(
                space=SPACE,
                metric="value",
                mode="max",
                study_name=job["name"],
                storage=storage(job),
                sampler=optuna.samplers.TPESampler(seed=job["seed"]),
            ),
            scheduler=ASHAScheduler(max_t=job["epochs"], grace_period=5, reduction_factor=3),
            num_samples=job["trials"],
            max_concurrent_trials=job["at_once"],
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=job["name"],
            storage_path=str(Path(job["folder"], "tune")),
            failure_config=tune.FailureConfig(max_failures=3),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[
                MLflowLoggerCallback(tracking_uri=job["tracking_uri"], experiment_name=job["name"])
            ],
            verbose=1,
        ),
    )


def main() -> None:
    job = json.loads(sys.argv[1])
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    ray.init(
        address="local",
        num_cpus=max(job["at_once"], os.cpu_count() or 1),
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _temp_dir=tempfile.mkdtemp(prefix="r"),
    )
    results = tuner(job).fit()
    print(f"{len(results)} trials, {results.num_errors} of them with errors")


if __name__ == "__main__":
    main()
