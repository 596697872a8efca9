"""python -m benchmarks.confirming: what adaptive confirming saves, over runs that were recorded."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.comparing import count, parser, write
from search.selection.race import Pair, race

ABOUT = """\
Races between settings of a recorded table (settings x seeds, validation UAR of each run), beside
confirming each setting with equally many seeds, which runs all of them. Many confirmations are
drawn from a table: five of its settings, its seeds in a random order.

same winner    share of confirmations whose winner is the one of equal seeds
runs           share of the runs of equal seeds that the race takes
regret         mean over the recorded seeds of the winner of equal seeds, less that of the race's:
               what a wrong winner costs, on average over all confirmations

exit codes: 0 the goal is reached, 1 it is not: at most 60 % of the runs with all recorded seeds

--record trains the table anew: a search of the demo corpus with frozen backbones, by tpe and
without a pruner, then its best settings with fresh seeds. That takes minutes."""

TABLE: Final = Path(__file__).parents[1] / "tests" / "search" / "selection" / "confirmed_runs.json"
GOAL: Final = 0.6
NOMINATED: Final = 5

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Saving:
    """What races saved, on average."""

    confirmations: int
    same: float  # share of confirmations
    runs: float  # share of runs
    regret: float  # UAR
    separated: float  # share of confirmations


def confirm(table: Values, at_once: int = 1) -> tuple[int, int, bool]:
    """Race the rows of a (settings, seeds) table. Each run takes as long as any other.

    Args:
        table: Value of each run.
        at_once: Number of workers.

    Returns:
        The winning row, the number of runs, and whether the others were out.
    """
    settings, seeds = range(len(table)), range(table.shape[1])
    values: dict[Pair, float | None] = {}
    while (state := race(settings, seeds, values)).wanted:
        for setting, seed in state.wanted[:at_once]:
            values[setting, seed] = float(table[setting, seed])
    runs = [sum((setting, seed) in values for seed in seeds) for setting in settings]
    most = [setting for setting in settings if runs[setting] == max(runs)]
    winner = max(most, key=lambda row: (table[row, : runs[row]].mean(), -row))
    return winner, len(values), state.separated


def saving(
    table: Values, seeds: int, confirmations: int, at_once: int = 1, nominated: int = NOMINATED
) -> Saving:
    """Race settings drawn from a table.

    Args:
        table: Value of each run: settings x seeds.
        seeds: Seeds of each setting, at most.
        confirmations: Number of races.
        at_once: Number of workers.
        nominated: Number of settings in each race.
    """
    random = np.random.default_rng(0)
    true = table.mean(1)
    found = []
    for _ in range(confirmations):
        rows = random.choice(len(table), nominated, replace=False)
        columns = random.permutation(table.shape[1])[:seeds]
        drawn = table[np.ix_(rows, columns)]
        winner, runs, separated = confirm(drawn, at_once)
        equal = int(drawn.mean(1).argmax())
        regret = true[rows[equal]] - true[rows[winner]]
        found.append((winner == equal, runs / drawn.size, regret, separated))
    same, runs, regret, separated = np.mean(np.array(found, np.float64), axis=0).tolist()
    return Saving(confirmations, same, runs, regret, separated)


def read(file: Path) -> Values:
    """The recorded values, settings x seeds."""
    values: Values = np.array(json.loads(file.read_text(encoding="utf-8"))["values"], np.float64)
    return values


def record(runs: Path, trials: int, settings: int, seeds: int) -> dict[str, Any]:
    """Search the demo corpus, and train its best settings with fresh seeds.

    Args:
        runs: Folder of the corpus and its features.
        trials: Trials of the search.
        settings: Number of its best settings that are confirmed.
        seeds: Fresh seeds of each.
    """
    import optuna
    import torch

    from fdan.data.open_task import open_task
    from fdan.training.train import train
    from fdan.training.training_data import load_training_data
    from search.cli.main import parse
    from search.config.spec import resolve
    from search.optimizer.samplers import make_sampler
    from search.optimizer.space import Value
    from search.pipeline import make_worker_data
    from search.selection.confirm import FIRST_SEED

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    flags = ["--runs", str(runs), "--epochs", "60", "--workers", "1", "--device", "cpu"]
    spec = resolve(parse(flags).options)
    task, split = open_task(spec.data, spec.settings)
    data = make_worker_data(spec, task)
    loaded = None

    def value(params: Mapping[str, Value], what: str) -> float:
        nonlocal loaded
        run = data.run_config(params, what)
        if loaded is None:
            loaded = load_training_data(task, split, run, torch.device("cpu"), data.cache)
        found = train(run, loaded, lambda epoch, checkpoint: None).value
        print(f"{what}: {found:.4f}", file=sys.stderr, flush=True)
        return float(found)

    study = optuna.create_study(
        direction="maximize", sampler=make_sampler("tpe", spec.space, spec.seed, 0)
    )
    for point in spec.space.enqueue:
        study.enqueue_trial(dict(point))
    study.optimize(lambda t: value(spec.space.suggest(t), f"trial {t.number}"), n_trials=trials)
    best = sorted(study.trials, key=lambda trial: (-(trial.value or 0.0), trial.number))[:settings]
    table = [
        [
            value({**spec.space.suggest(optuna.trial.FixedTrial(trial.params)), "seed": seed}, name)
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        for trial in best
        for name in (f"setting of trial {trial.number}",)
    ]
    return {
        "made": f"python -m benchmarks.confirming --record FILE --trials {trials}"
        f" --settings {settings} --seeds {seeds}",
        "searched": [round(trial.value or 0.0, 4) for trial in best],
        "values": [[round(value, 4) for value in row] for row in table],
    }


def lines(table: Values, confirmations: int) -> Sequence[tuple[int, int, Saving]]:
    """Savings by seeds and workers."""
    most = table.shape[1]
    chosen = [*((seeds, 1) for seeds in (3, 5, 8) if seeds < most), (most, 1), (most, 2), (most, 4)]
    return [(s, w, saving(table, s, confirmations, w)) for s, w in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    words = parser("confirming", ABOUT)
    words.add_argument("table", nargs="?", type=Path, default=TABLE, help="default: the test's")
    words.add_argument("--record", type=Path, metavar="FILE", help="train a table, write it there")
    words.add_argument("--runs", type=Path, metavar="FOLDER", help="for --record; default: a new")
    for name, default in (("trials", 50), ("settings", 12), ("seeds", 10), ("draws", 1000)):
        words.add_argument(f"--{name}", type=count, default=default, metavar="INT")
    given = words.parse_args(arguments)
    if given.record is not None:
        return _record(given)
    table = read(given.table)
    rows = lines(table, given.draws)
    print(f"{len(table)} settings, {table.shape[1]} seeds: five settings race, {given.draws} times")
    print("seeds  at once  same winner   runs  separated  regret")
    for seeds, at_once, found in rows:
        print(
            f"{seeds:5}  {at_once:7}  {found.same:11.1%}  {found.runs:5.1%}  {found.separated:9.1%}"
            f"  {found.regret:.5f}"
        )
    write(given.json, {f"{s} seeds, {w} at once": vars(found) for s, w, found in rows})
    return int(rows[-3][2].runs > GOAL)  # all seeds of the table, one run at a time


def _record(given: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = record(given.runs or Path(folder), given.trials, given.settings, given.seeds)
    rows = ",\n  ".join(json.dumps(row) for row in found.pop("values"))
    head = "".join(f" {json.dumps(k)}: {json.dumps(v)},\n" for k, v in found.items())
    given.record.write_text(f'{{\n{head} "values": [\n  {rows}\n ]\n}}\n', encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
