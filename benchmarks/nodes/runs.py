"""The same short trials twice: as a search of ours runs them, and on bare Ray Tune."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import optuna
import ray
from ray import tune
from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks.nodes.parts import Parts
from fdan.run_config import RunConfig
from search.callbacks.checkpoint_retention import CheckpointRetention
from search.callbacks.mlflow import MlflowCallback, TrialRuns
from search.callbacks.progress import Progress
from search.callbacks.trial_figures import TrialFigures
from search.config.spec import TrialResources
from search.optimizer.pruners import decision_epochs, make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space_file import load_space
from search.study.events import StudyCallback
from search.study.identity import Identity, RequestedStudy
from search.study.open import open_study
from search.study.stopping import StopSignal
from search.study.storage import open_storage
from search.study.storage_retry import StorageRetry
from search.study.trial_controller import TrialController, TrialPolicy
from search.study.writer import StudyWriter
from search.tune.grouping import TuneRun
from search.tune.tune_run import find_capacity, run_trials
from search.worker.messages import EpochResult
from search.worker.trainable import TrialContext
from tracking.tracker import Tracker

_DRAIN_S = 300.0


@dataclass(frozen=True)
class Terms:
    """What all runs have in common."""

    nodes: int
    trials: int
    epochs: int
    pause: float
    """Seconds that an epoch takes."""


@dataclass(frozen=True)
class Run:
    """One run of all trials; seconds."""

    start: float
    """Until a worker was up on each node."""
    wall: float
    """From then until all trials had ended."""
    epochs: int
    """Of all trials."""
    after: float = 0.0
    """Until the last figure is drawn and all is with MLflow, trials being over."""
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of `wall`, where it was asked for: wall time and CPU time of each part."""


class _Clock:
    """Inside, a run: when it began, was up on each node, and ended."""

    def __init__(self, terms: Terms, places: Path, profile: bool) -> None:
        self._terms = terms
        self._places = places
        self._parts = Parts(lambda: len(list(places.iterdir())) == terms.nodes)
        self._profile = profile

    def __enter__(self) -> Self:
        self._began = time.time()
        if self._profile:
            self._parts.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended = time.time()
        if self._profile:
            self._parts.__exit__(*error)

    def run(self, epochs: int, after: float = 0.0) -> Run:
        firsts = [float(file.read_text()) for file in self._places.iterdir()]
        _must(len(firsts) == self._terms.nodes, f"{len(firsts)} nodes had trials")
        names = sorted(self._parts.wall.keys() | self._parts.cpu.keys())
        return Run(
            max(firsts) - self._began,
            self._ended - max(firsts),
            epochs,
            after,
            {name: (self._parts.wall[name], self._parts.cpu[name]) for name in names},
        )


@contextlib.contextmanager
def nodes(count: int, folder: Path) -> Iterator[str]:
    """A cluster of so many nodes of one CPU each; its address.

    Its files, and the one by which Ray finds a cluster by itself, are in `folder`: another Ray on
    this machine is not touched, and finds nothing of this one.
    """
    own = {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    each = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args=each)
        for _ in range(count - 1):
            cluster.add_node(wait=False, **each)
        cluster.wait_for_nodes(timeout=300)
        yield cluster.address
    finally:
        if cluster is not None:
            cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def course(terms: Terms, places: Path) -> Callable[[float, int], Iterator[tuple[int, Any]]]:
    """What a trial does on its worker: (epoch, metrics) as FDAN's training reports them, after each
    pause. Nested, so that it travels to the workers by value.

    A worker's first trial writes when it began into its node's file in `places`, and waits until
    there is one of each node: on a machine with few cores, workers take longer to start than short
    trials to end, and some nodes would never get one.
    """
    nodes, epochs, pause = terms.nodes, terms.epochs, terms.pause

    def trial(quality: float, after: int) -> Iterator[tuple[int, dict[str, float]]]:
        place = places / ray.get_runtime_context().get_node_id()
        if not place.exists():
            part = places.with_name(place.name)
            part.write_text(repr(time.time()))
            part.replace(place)
            until = time.monotonic() + 300
            while len(list(places.iterdir())) < nodes and time.monotonic() < until:
                time.sleep(0.02)
        for epoch in range(after + 1, epochs + 1):
            time.sleep(pause)
            done = 1 - math.exp(-epoch / 3)
            score, loss = quality * done, 2 * (1 - quality * done)
            yield (
                epoch,
                {
                    "train/loss": loss,
                    "train/loss_acoustic": loss / 2,
                    "train/loss_visual": loss / 3,
                    "train/lmmd": loss / 6,
                    "train/lr": 0.001,
                    "validation/uar": score,
                    "validation/war": score,
                    "validation/wf1": score,
                    "validation/loss": loss,
                    "value": score,
                },
            )

    return trial


def ours(terms: Terms, pruner: str, uri: str, folder: Path, profile: bool = False) -> Run:
    """As search/tune/recovery.py does it, with a cheap function in the place of training."""
    folder.mkdir()
    places = folder / "places"
    places.mkdir()
    known = RunConfig().as_dict()
    searched = load_space("default", known).resolve(known, frozenset())
    fixed = {name: value for name, value in known.items() if name not in searched.names}
    opened = open_study(
        RequestedStudy(
            folder.name,
            folder,
            "journal",
            Identity(searched.as_dict(), "none", {}, fixed, 0),
            searched.enqueue,
        ),
        open_storage(None, folder),
        make_sampler("tpe", searched, 0, 0),
        make_pruner(pruner, terms.epochs),
    )
    stop = StopSignal()
    console = Console(
        file=(folder / "terminal").open("w"), force_terminal=True, width=120, height=40
    )
    with Tracker(folder / "spool", uri, "nodes") as tracker, TrialFigures() as drawing:
        tracker.open_study(folder.name, {}, {})
        _must(tracker.drain(_DRAIN_S), "MLflow was not reached")
        tracked = MlflowCallback(tracker, drawing, folder, TrialRuns(fixed, {}))
        with Progress(
            console, folder.name, terms.trials, terms.epochs, at_once=terms.nodes
        ) as progress:
            callbacks: tuple[StudyCallback, ...] = (
                progress,
                tracked,
                CheckpointRetention(folder, opened),
            )
            StorageRetry(None, progress.say, stop.due).wait_for_connections(opened)
            controller = TrialController(
                StudyWriter(opened, searched.suggest, pruner),
                TrialPolicy(terms.epochs, decision_epochs(pruner, terms.epochs)),
                terms.trials,
                callbacks,
            )
            capacity = find_capacity(TrialResources(1))
            _must(
                capacity.max_concurrent == terms.nodes,
                f"room for {capacity.max_concurrent} trials at once",
            )
            trial = course(terms, places)

            def train(assignment: TrialContext, report: Callable[[EpochResult], None]) -> None:
                quality = float(assignment.params["decay"]) ** 0.1
                for epoch, metrics in trial(quality, assignment.start_epoch):
                    report(EpochResult(epoch, metrics["value"], metrics, [[9] * 7] * 7))

            with _Clock(terms, places, profile) as clock:
                run_trials(
                    controller,
                    train,
                    TuneRun(
                        capacity=capacity,
                        epoch_timeout=600,
                        folder=folder,
                        stop=stop,
                        notify=progress.say,
                    ),
                )
        ended = time.time()
        tracked.finish()
        _must(tracker.drain(_DRAIN_S), "MLflow did not get everything")
        after = time.time() - ended
    trials = opened.get_trials(deepcopy=False)
    wanted = {optuna.trial.TrialState.COMPLETE}
    if pruner != "none":
        wanted.add(optuna.trial.TrialState.PRUNED)
    _must(len(trials) == terms.trials and {one.state for one in trials} <= wanted, "trials failed")
    epochs = sum(len(one.intermediate_values) for one in trials)
    return clock.run(epochs, after)


def bare(terms: Terms, folder: Path, profile: bool = False) -> Run:
    """Ray Tune alone: random search, first in first out, no callbacks, the actors reused."""
    folder.mkdir()
    places = folder / "places"
    places.mkdir()
    known = RunConfig().as_dict()
    searched = load_space("default", known).resolve(known, frozenset())
    trial = course(terms, places)

    def train(config: Mapping[str, Any]) -> None:
        for epoch, metrics in trial(config["decay"], 0):
            tune.report({**metrics, "epoch": epoch})

    with _Clock(terms, places, profile) as clock:
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={name: tune.uniform(0, 1) for name in searched.names},
            tune_config=tune.TuneConfig(
                num_samples=terms.trials, max_concurrent_trials=terms.nodes, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="bare", storage_path=str(folder / "tune"), verbose=0, callbacks=[]
            ),
        ).fit()
    last = [result.metrics["epoch"] for result in results if not result.error]
    _must(last == [terms.epochs] * terms.trials, "trials of bare Ray Tune failed")
    return clock.run(sum(last))


def _must(true: bool, otherwise: str) -> None:
    if not true:
        raise SystemExit(f"the measurement failed: {otherwise}")
