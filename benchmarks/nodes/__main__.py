"""python -m benchmarks.nodes: a search on many nodes beside bare Ray Tune on the same ones."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import optuna

from benchmarks import comparing
from benchmarks.nodes.parts import CORE, WAITING
from benchmarks.nodes.runs import Run, Terms, bare, nodes, ours
from search.tune.ray_session import connected

ABOUT = """\
Short trials on a cluster that this machine plays: Ray's own cluster utilities start so many nodes
of one CPU each (a raylet and its agents), and end them. A trial imports no torch: it waits, and
reports the metrics of FDAN's training after each epoch.

ours         the driver of a search: Optuna's tpe sampler over the default space, its journal on
             disk, the spool and MLflow over an SQLite file, figures, the table on the terminal.
             Once without a pruner, as bare Ray Tune has none; once with hyperband, whose trials
             are shorter and ask for more.
bare         tune.Tuner with a function that reports the same, random search, first in first out,
             reuse_actors, as many trials at once, no callbacks; Tune's snapshots and its own
             loggers are off, as they are for ours.

All kinds run in turns in one process on one cluster, the other way round in each second round;
shown are medians. MLflow is imported and its tables are made before. Each run starts a worker
process on each node ("start"), whose first trial waits for the others: the trials' time counts from
when all are up until the last one has ended. "after" is what remains then: figures that are still
to be drawn, and what MLflow has not yet got.

parts        one more run of ours and of bare each, not timed above, in which a thread looks 250
             times a second at where each thread is (sys._current_frames). The time since its last
             look goes to the part that the driver's thread is in, and each thread's CPU time since
             then to the part that the thread is in, or is there for. Whoever wants the
             interpreter's lock is seen waiting for it: wall time without CPU time. Ray's threads of
             C++ are what the process's CPU time has beyond those.

On two cores a round of the full size takes five to eight minutes, most of it for the figures of 256
trials, which a search of real ones draws while they train.

exit codes: 0 the goal is reached, 1 it is not: ours without a pruner at most 1.15 times bare"""

GOAL: Final = 1.15


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    terms = Terms(options.nodes, options.trials, options.epochs, options.pause / 1000)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs: dict[str, list[Run]] = {"ours": [], "hyperband": [], "bare": []}
    profiles: dict[str, Run] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fdan-nodes-", dir="/tmp") as name:
        folder = Path(name)
        uri = f"sqlite:///{folder / 'mlflow.db'}"

        def run(kind: str, label: str, profile: bool = False) -> Run:
            place = folder / f"{kind}-{label}"
            if kind == "bare":
                done = bare(terms, place, profile)
            else:
                done = ours(terms, "none" if kind == "ours" else kind, uri, place, profile)
            _tell(
                f"{kind} {label}: {done.wall:.1f} s, {done.epochs} epochs; start {done.start:.0f} s"
            )
            return done

        _tell(f"starting {terms.nodes} nodes")
        with nodes(terms.nodes, folder) as address, connected(address, folder):
            for number in range(options.rounds):
                for kind in list(runs)[:: -1 if number % 2 else 1]:
                    runs[kind].append(run(kind, str(number + 1)))
            for kind in ("ours", "bare"):
                profiles[kind] = run(kind, "parts", profile=True)
    ratio = _show(terms, runs)
    _show_parts(terms, profiles)
    print(f"all of it took {time.monotonic() - began:.0f} s", flush=True)
    found = {
        "machine": comparing.machine("ray", "optuna", "mlflow"),
        "terms": asdict(terms),
        "ratio": ratio,
        "runs": {kind: [asdict(one) for one in them] for kind, them in runs.items()},
        "parts": {kind: asdict(one) for kind, one in profiles.items()},
    }
    comparing.write(options.json, found)
    return 0 if ratio <= GOAL else 1


def _show(terms: Terms, runs: dict[str, list[Run]]) -> float:
    def median(kind: str, of: Callable[[Run], float]) -> float:
        return statistics.median(map(of, runs[kind]))

    print(
        f"{terms.nodes} nodes of 1 CPU on {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}),"
        f" {terms.trials} trials of {terms.epochs} epochs of {1000 * terms.pause:g} ms;"
        f" {len(runs['bare'])} rounds\n"
        f"{'':<18}{'epochs':>8}{'seconds':>9}{'a trial':>11}{'of bare':>9}"
        f"{'start':>9}{'after':>9}"
    )
    names = {"ours": "ours", "hyperband": "ours, hyperband", "bare": "bare Ray Tune"}
    alone, ratios = median("bare", lambda run: run.wall), {}
    for kind, name in names.items():
        wall = median(kind, lambda run: run.wall)
        ratios[kind] = wall / alone
        print(
            f"{name:<18}{median(kind, lambda run: run.epochs):>8.0f}{wall:>9.1f}"
            f"{1000 * wall / terms.trials:>8.0f} ms{ratios[kind]:>9.2f}"
            f"{median(kind, lambda run: run.start):>7.1f} s"
            f"{median(kind, lambda run: run.after):>7.1f} s"
        )
    print(f"ours takes {ratios['ours']:.3f} times as long as bare Ray Tune; goal {GOAL}")
    return ratios["ours"]


def _show_parts(terms: Terms, profiles: dict[str, Run]) -> None:
    """Milliseconds a trial."""
    print(
        "where the driver's time goes, ms a trial      ours            bare Ray Tune\n"
        "                                         wall      CPU       wall      CPU"
    )
    none = (0.0, 0.0)
    mine, alone = profiles["ours"].parts, profiles["bare"].parts
    rows = [(name, *mine.get(name, none), *alone.get(name, none)) for name in {**mine, **alone}]
    rows.sort(key=lambda row: (row[0] in (WAITING, CORE), -row[1], -row[2]))
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    for name, *seconds in rows:
        one, two, three, four = (1000 * value / terms.trials for value in seconds)
        print(f"  {name:<34}{one:>9.1f}{two:>9.1f}{three:>11.1f}{four:>9.1f}")


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = comparing.parser("nodes", ABOUT)
    for name, default, text in (
        ("nodes", 16, "nodes of the cluster, and trials at once"),
        ("trials", 256, "trials of each run, at least two a node to see them under way"),
        ("epochs", 10, "epochs of a trial"),
        ("rounds", 2, "how often each kind runs"),
    ):
        parser.add_argument(
            f"--{name}",
            type=comparing.count,
            default=default,
            metavar="INT",
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "--pause",
        type=comparing.number(0, 60_000, "milliseconds"),
        default=100.0,
        metavar="MS",
        help="how long an epoch takes [ms] (default: 100)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
