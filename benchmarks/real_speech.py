"""python -m benchmarks.real_speech: what FDAN, its parts and yardsticks reach on real speech."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.comparing import count, heading, machine
from fdan.cli.arguments import Parser, add_data_arguments, add_run_arguments, exit_code
from fdan.data.folds import refit_split
from fdan.data.open_task import DataConfig, open_task
from fdan.data.settings import Settings, make_settings
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, unknown
from fdan.evaluation.predictions import (
    Predictions,
    pooled_predictions,
    speech_predictions,
)
from fdan.evaluation.statistics import Comparison, bootstrap, compare
from fdan.evaluation.yardsticks import YARDSTICKS, YardstickData, yardstick_predictions
from fdan.files import sha256_file
from fdan.machine.cpus import cpu_count
from fdan.run_config import RunConfig
from fdan.training.train import train
from fdan.training.training_data import TrainingData, frozen_speech, load_training_data
from fdan.training.validate import predict_logits, restore_network

ABOUT = """\
Trains each system on all speakers but a fold's, and asks it about the fold's, fold after fold, with
several seeds: every speaker is tested once a seed, by a model that never met them. Nothing is
chosen by what it answers: settings and epochs are fixed before, and the last epoch's model answers.

UAR            mean over seeds of the UAR over all speakers; 95 % interval over speakers
beside FDAN    FDAN's UAR less the system's on the same utterances and seeds; 95 % interval over
               speakers

A run's answers are added to --out as soon as it is done, so the same command goes on after whatever
stopped it, more seeds or systems train only what is new, and a file that somebody else recorded
shows the table without training.

  python -m benchmarks.real_speech --acoustic ravdess:RAVDESS --visual folders:FER2013/train \\
      --spectrogram-size 96 --face-size 48 --backbone resnet18 --weights resnet18.pth
  python -m benchmarks.real_speech ... --systems fdan,speech --mixup 0 --seeds 1"""

RECIPE: Final[dict[str, Any]] = {
    "backbone": "resnet18",
    "tuning": "full",
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "lr": 1e-3,
    "backbone_rate": 0.3,
    "decay": 0.05,
    "smoothing": 0.1,
    "mixup": 0.2,
    "dropout": 0.3,
    "speech_moves": True,
    "epochs": 40,
}
"""Shared by all systems that are trained."""

SYSTEMS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "fdan": ("FDAN", {"layers": 1, "alpha": 0.1}),
    "fdan_1": ("FDAN_1 (no attention)", {"layers": 0, "alpha": 0.1}),
    "fdan_2": ("FDAN_2 (no LMMD)", {"layers": 1, "alpha": 0.0}),
    "speech": ("speech backbone alone", {"system": "speech"}),
}
"""Title and settings of each system that is trained, by name."""


@dataclass(frozen=True)
class Workload:
    """What is trained and asked."""

    data: DataConfig
    settings: Settings
    folds: int

    def open(self) -> tuple[Task, tuple[Split, ...]]:
        """The task, and of each fold the split whose test part are the fold's speakers."""
        task, _ = open_task(self.data, self.settings)
        outer = range(1, self.folds + 1)
        configs = [replace(self.settings.split, outer=f"{i}/{self.folds}") for i in outer]
        return task, tuple(refit_split(task, config) for config in configs)


@dataclass(frozen=True)
class Run:
    """One training."""

    system: str
    fold: int  # from 0
    seed: int
    config: RunConfig

    def key(self, task: Task, split: Split) -> str:
        """Names it by everything that its answers depend on."""
        config, tested = self.config.as_dict(), split.acoustic_test.tolist()
        if Path(config["weights"]).is_file():  # the file, wherever it lies
            config["weights"] = sha256_file(Path(config["weights"]))
        facts = json.dumps([config, task.fingerprint, tested], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Answers:
    """What a run answered, as a line of --out."""

    key: str
    run: str  # for people
    answers: str  # a digit for each utterance of the fold's test part, an index into EMOTIONS
    seconds: float

    def predictions(self, task: Task, split: Split) -> Predictions:
        """The answers beside the truth."""
        predicted = np.array(list(self.answers), np.int64)
        return speech_predictions(task, split.acoustic_test, np.eye(len(EMOTIONS))[predicted])


def read_answers(file: Path) -> dict[str, Answers]:
    """What is recorded, by its run's key. ConfigError: the file cannot be read."""
    if not file.exists():
        return {}
    try:
        lines = [Answers(**json.loads(line)) for line in file.read_text().splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--out {file} cannot be read: {error}") from None
    return {line.key: line for line in lines}


_Opened = tuple[Task, tuple[Split, ...], TrainingData]
_opened: dict[str, _Opened] = {}  # of this process


def train_and_answer(workload: Workload, run: Run, threads: int) -> Answers:
    """Train, then answer.

    Args:
        workload: Data and folds.
        run: What is trained.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    kind = run.config.model.tuning
    if kind not in _opened:
        task, splits = workload.open()
        cache = workload.data.runs / "features"
        cpu = torch.device("cpu")
        _opened[kind] = task, splits, load_training_data(task, splits[0], run.config, cpu, cache)
    task, splits, loaded = _opened[kind]
    began = time.perf_counter()
    split = splits[run.fold]
    # An epoch validates on something; this says nothing, is quick, and is not the fold.
    unseen = replace(split, acoustic_validation=split.acoustic_train[:8])
    parent = os.getppid()

    def stop_with_parent(*_: object) -> None:
        if os.getppid() != parent:
            sys.exit("the command that asked for this run was killed")

    last = train(run.config, loaded.divided(task, unseen), stop_with_parent)
    model = run.config.model
    bank = None if model.context == "none" else tuple(last.tensors_under("bank").values())
    network = restore_network(last).eval()
    logits = predict_logits(network, loaded.acoustic, split.acoustic_test, bank)
    seconds = round(time.perf_counter() - began, 1)
    name = f"{run.system}, fold {run.fold + 1} of {workload.folds}, seed {run.seed}"
    answers = "".join(map(str, logits.argmax(1).tolist()))
    return Answers(run.key(task, split), name, answers, seconds)


@dataclass(frozen=True)
class Row:
    """A system's answers by seed, and what they cost."""

    title: str
    seeds: tuple[Predictions, ...]
    seconds: float | None  # of a run

    @property
    def uars(self) -> list[float]:
        return [answers.measures().uar for answers in self.seeds]

    def beside(self, other: Row) -> Comparison:
        """This one less the other; what has one seed answers alike for each of the other's."""
        most = max(len(self.seeds), len(other.seeds))
        ours, theirs = ((row.seeds * most)[:most] for row in (self, other))
        return compare(pooled_predictions(ours), pooled_predictions(theirs))


def markdown(rows: Mapping[str, Row], command: str) -> Iterator[str]:
    """The table's lines."""
    first = next(iter(rows.values()))
    yield f"| system | UAR | 95 % interval | by seed | {first.title} less it | s a run |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows.values():
        whole = bootstrap(pooled_predictions(row.seeds))
        less = "" if row is first else _difference(first.beside(row))
        seeds = " ".join(f"{uar:.3f}" for uar in row.uars) if len(row.seeds) > 1 else ""
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        interval = f"{whole.low:.3f} .. {whole.high:.3f}"
        mean = f"{sum(row.uars) / len(row.seeds):.3f}"
        yield f"| {row.title} | {mean} | {interval} | {seeds} | {less} | {seconds} |"
    yield ""
    yield f"`{command}`"


def _difference(less: Comparison) -> str:
    return f"{less.difference:+.3f} ({less.low:+.3f} .. {less.high:+.3f})"


def runs_of(names: Sequence[str], settings: Settings, folds: int, seeds: int) -> list[Run]:
    """All trainings, so that what is there after a while compares: seed by seed, fold by fold."""
    return [
        Run(name, fold, seed, _config(settings, name, seed))
        for seed in range(seeds)
        for fold in range(folds)
        for name in names
    ]


def _config(settings: Settings, name: str, seed: int) -> RunConfig:
    own = {k: v for k, v in SYSTEMS[name][1].items() if k not in settings.chosen}
    return RunConfig.from_mapping({**settings.run, **own, "seed": seed})


def train_all(workload: Workload, todo: Sequence[Run], workers: int, out: Path) -> None:
    """Train, several side by side, record what is done, and say how far it is."""
    threads = max(1, cpu_count() // workers)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), context) as pool:
        waiting = {pool.submit(train_and_answer, workload, run, threads) for run in todo}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                answers = future.result()
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(answers)) + "\n")
                left = (time.monotonic() - began) / (len(todo) - len(waiting)) * len(waiting)
                print(
                    f"{answers.run}: {answers.seconds:.0f} s; {len(waiting)} runs left, about"
                    f" {left / 60:.0f} min",
                    file=sys.stderr,
                    flush=True,
                )


def measure(given: argparse.Namespace, command: str) -> int:
    """Train, and print the table.

    Args:
        given: The parsed command line.
        command: The command line itself, for the table.
    """
    names = given.systems.split(",")
    for name in names:
        if name not in SYSTEMS:
            raise ConfigError(f"--systems {name}: {unknown('system', name, SYSTEMS)}")
    options = vars(given)
    settings = make_settings({**RECIPE, **options}, "gpu")
    settings = replace(settings, chosen=settings.chosen & options.keys())
    workload = Workload(DataConfig(**DataConfig.pick(options)), settings, given.speaker_folds)
    task, splits = workload.open()
    samples = task.samples("acoustic")
    for number, split in enumerate(splits, start=1):
        people = sorted({str(samples.speakers[i]) for i in split.acoustic_test})
        tested = f"{len(split.acoustic_test)} utterances of {', '.join(people)}"
        print(f"fold {number}: {len(split.acoustic_train)} train, {tested}", file=sys.stderr)
    runs = runs_of(names, settings, given.speaker_folds, given.seeds)
    keys = {run: run.key(task, splits[run.fold]) for run in runs}
    recorded = read_answers(given.out)
    todo = [run for run in runs if keys[run] not in recorded]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them recorded", file=sys.stderr)
    if given.dry_run:
        return 0
    if todo:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        train_all(workload, todo, given.side_by_side, given.out)
        recorded = read_answers(given.out)
    rows = {}
    for name in names:
        own = [(run, recorded[keys[run]]) for run in runs if run.system == name]
        seeds = [
            pooled_predictions(
                [a.predictions(task, splits[r.fold]) for r, a in own if r.seed == seed]
            )
            for seed in range(given.seeds)
        ]
        seconds = float(np.mean([answers.seconds for _, answers in own]))
        rows[name] = Row(SYSTEMS[name][0], tuple(seeds), seconds)
    rows |= _yardstick_rows(workload, task, splits)
    print(f"{heading(machine('torch'))}; {len(samples)} utterances\n")
    print("\n".join(markdown(rows, command)))
    return 0


def _yardstick_rows(workload: Workload, task: Task, splits: Sequence[Split]) -> dict[str, Row]:
    run, cache = RunConfig.from_mapping(workload.settings.run), workload.data.runs / "features"
    speech = frozen_speech(task, run, torch.device("cpu"), cache)
    rows = {}
    for yardstick in (y for y in YARDSTICKS if not y.follows_winner):
        answers = [
            yardstick_predictions(
                yardstick, YardstickData(task, split, speech), split.acoustic_test
            )
            for split in splits
        ]
        rows[yardstick.name] = Row(yardstick.title, (pooled_predictions(answers),), None)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    words = Parser(
        prog="python -m benchmarks.real_speech",
        description=ABOUT,
    )
    own = words.add_argument_group("measurement")
    add = own.add_argument
    add("--systems", default=",".join(SYSTEMS), metavar="NAMES", help="default: all")
    text = "folds of speakers, each of which tests once (default: 4)"
    add("--speaker-folds", type=count, default=4, metavar="INT", help=text)
    add("--seeds", type=count, default=3, metavar="INT", help="default: 3")
    text = "runs side by side, the cores divided among them (default: one a core)"
    add("--side-by-side", type=count, default=cpu_count(), metavar="INT", help=text)
    text = "file that keeps what is done (default: ./runs/real_speech.jsonl)"
    add("--out", type=Path, default=Path("runs/real_speech.jsonl"), metavar="FILE", help=text)
    add("--dry-run", action="store_true", help="show folds and number of runs, train nothing")
    add_data_arguments(words)
    add_run_arguments(words)
    given = words.parse_args(arguments)
    typed = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "benchmarks.real_speech", *typed])
    return exit_code(lambda: measure(given, command))


if __name__ == "__main__":
    sys.exit(main())
