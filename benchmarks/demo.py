"""python -m benchmarks.demo: what FDAN's parts are worth on demo corpora of several seeds."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.comparing import count, heading, machine, parser, write
from fdan.cli.arguments import exit_code
from fdan.corpora.demo import generate
from fdan.data.open_task import DataConfig, open_task
from fdan.data.settings import make_settings
from fdan.evaluation.yardsticks import YARDSTICKS, YardstickData, yardstick_predictions
from fdan.metrics import Ints
from fdan.run_config import RunConfig
from fdan.training.checkpoint import Checkpoint
from fdan.training.folds.train import FoldsEpoch, train_folds
from fdan.training.training_data import load_training_data
from fdan.training.validate import predict_logits, restore_network, score_logits

ABOUT = """\
Generates demo corpora, and on each of them trains FDAN, FDAN without attention (FDAN_1), without
the LMMD (FDAN_2), and speech alone, with several seeds, all with the same learning rate and decay.
Prints the mean test UAR of each, the yardsticks' beside them, and the differences with how far
apart a setting's seeds lie.

exit codes: 0 over all corpora each part is worth more than its seeds differ (standard deviation),
1 one is not"""

SETTINGS: Final[dict[str, Any]] = {
    "lr": 0.015,
    "decay": 1e-4,
    "epochs": 60,
    "validation": 0.375,
    "test": 0.375,
}
"""Data are divided as by `make search`: four of sixteen speakers train."""

SYSTEMS: Final[dict[str, dict[str, Any]]] = {
    "FDAN": {"layers": 1, "alpha": 0.5},
    "FDAN_1": {"layers": 0, "alpha": 0.5},
    "FDAN_2": {"layers": 1, "alpha": 0.0},
    "speech alone": {"system": "speech"},
}

PARTS: Final = {"attention": "FDAN_1", "the LMMD": "FDAN_2", "faces": "speech alone"}
"""What FDAN has and the system has not."""


@dataclass(frozen=True)
class Corpus:
    """Test UARs on one demo corpus."""

    systems: Mapping[str, Sequence[float]]  # one a seed
    yardsticks: Mapping[str, float]


def measure(folder: Path, corpus_seed: int, seeds: int) -> Corpus:
    """Train and test everything on one corpus.

    Args:
        folder: Where the corpus, its stores and features go.
        corpus_seed: Seed of the corpus.
        seeds: Seeds of each system.
    """
    generate(folder / "corpus", seed=corpus_seed)
    settings = make_settings(SETTINGS, "demo")
    data = DataConfig(task=f"demo:{folder / 'corpus'}", runs=folder)
    task, split = open_task(data, settings)
    kind, cpu = RunConfig.from_mapping(settings.run), torch.device("cpu")
    loaded = load_training_data(task, split, kind, cpu, folder / "features")
    names = [name for name in SYSTEMS for _ in range(seeds)]
    runs = [
        RunConfig.from_mapping({**settings.run, **SYSTEMS[name], "seed": number % seeds})
        for number, name in enumerate(names)
    ]
    last: dict[int, Checkpoint] = {}

    def report(epochs: Sequence[FoldsEpoch], diverged: Mapping[int, Exception]) -> None:
        assert not diverged
        for epoch in epochs:
            if epoch.epoch.epoch == kind.training.epochs:
                last[epoch.run] = epoch.checkpoint().folds[0]

    train_folds(runs, [loaded], report)
    truth: Ints = loaded.acoustic.labels[split.acoustic_test]
    systems: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for number, name in enumerate(names):
        checkpoint = last[number]
        network, bank = restore_network(checkpoint).eval(), checkpoint.tensors_under("bank")
        tested = predict_logits(network, loaded.acoustic, split.acoustic_test, tuple(bank.values()))
        systems[name].append(score_logits(tested, truth).uar)
    speech = loaded.acoustic.arrays[0].numpy()
    material = YardstickData(task, split, speech)
    answers = {
        yardstick.title: yardstick_predictions(yardstick, material, split.acoustic_test)
        for yardstick in YARDSTICKS
        if not yardstick.follows_winner
    }
    return Corpus(systems, {title: found.measures().uar for title, found in answers.items()})


def table(corpora: Sequence[Corpus]) -> bool:
    """Print the figures. Returns whether each part is worth more than its seeds differ."""
    rows = {name: [statistics.fmean(c.systems[name]) for c in corpora] for name in SYSTEMS}
    rows |= {title: [c.yardsticks[title] for c in corpora] for title in corpora[0].yardsticks}
    print(f"{'test UAR, by corpus seed':26}" + "".join(f"{n:8}" for n in range(len(corpora))))
    for name, values in rows.items():
        cells = "".join(f"{value:8.3f}" for value in values)
        print(f"{name:26}{cells}   mean {statistics.fmean(values):.3f}")
    enough = True
    for part, without in PARTS.items():
        worth = statistics.fmean(rows["FDAN"]) - statistics.fmean(rows[without])
        spread = statistics.fmean(
            statistics.stdev(corpus.systems[name])
            for corpus in corpora
            for name in ("FDAN", without)
        )
        enough = enough and worth > spread
        print(f"{part} is worth {worth:+.3f}, seeds of one setting differ by {spread:.3f}")
    return enough


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    words = parser("demo", ABOUT)
    for name, default in (("corpora", 5), ("seeds", 3)):
        text = f"default: {default}"
        words.add_argument(f"--{name}", type=count, default=default, metavar="INT", help=text)
    return exit_code(lambda: _run(words.parse_args(arguments)))


def _run(given: argparse.Namespace) -> int:
    print(heading(machine("torch")))
    corpora = []
    for number in range(given.corpora):
        with tempfile.TemporaryDirectory() as folder:
            corpora.append(measure(Path(folder), number, given.seeds))
        print(f"corpus {number + 1} of {given.corpora} is measured", file=sys.stderr, flush=True)
    enough = table(corpora)
    write(given.json, {f"corpus seed {n}": vars(found) for n, found in enumerate(corpora)})
    return int(not enough)


if __name__ == "__main__":
    sys.exit(main())
