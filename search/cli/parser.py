"""The command line of a search."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from fdan.cli.arguments import Parser, add_data_arguments, add_run_arguments
from search.optimizer.pruners import PRUNERS
from search.optimizer.samplers import N_STARTUP_TRIALS, SAMPLERS
from search.optimizer.space_file import shipped_spaces

AUTO = "auto"
"""A --gpus-per-trial that is to be found out."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

DESCRIPTION = """\
Search the hyperparameters of FDAN: Optuna proposes trials, Ray Tune runs them, MLflow shows them.
With no options at all, the demo corpus is searched here and now. The same command again continues
the study; a higher --trials extends it."""

EXAMPLES = """\
examples:
  python search/run.py
      20 trials on the demo corpus, on this machine
  python search/run.py --acoustic ravdess:/data/RAVDESS --visual folders:/data/FER2013/train \\
      --backbone resnet18 --trials 50 --time-budget 2h
      speech of RAVDESS and faces of FER2013, for at most two hours
  python search/run.py --task savee:/data/SAVEE --space paper --sampler grid --lr 0.001 --dry-run
      the paper's grid on SAVEE with the learning rate pinned: shows the plan, starts nothing"""


def parser() -> Parser:
    """All flags, grouped; those of data, model and training are shared with `python -m fdan`."""
    top = Parser(
        prog="search/run.py",
        usage="python search/run.py [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    _study(top)
    _search(top)
    _resources(top)
    add_data_arguments(top)
    add_run_arguments(top)
    return top


def _study(top: Parser) -> None:
    group = top.add_argument_group("study")
    group.add_argument(
        "--study",
        metavar="NAME",
        help="its name (default: from the data); that of an earlier one alone goes on with it",
    )
    group.add_argument(
        "--trials",
        metavar="INT",
        type=_count,
        default=20,
        help="trials in all, those of earlier starts included (default: 20)",
    )
    group.add_argument(
        "--time-budget",
        metavar="TIME",
        type=seconds,
        help="stop searching after this long, as in 90s, 30m, 2h, 1h30m;\n"
        "preparing is not counted (default: none)",
    )
    group.add_argument(
        "--stop-early",
        metavar="NOISE|auto",
        type=_noise,
        help="end the search once its next 10 trials are expected to raise the best value by less\n"
        "than NOISE, by which the seed alone moves a value (0.02, say; 0: never); auto: as the\n"
        "study's confirming runs have it, else as the values' last epochs fluctuate, which is\n"
        "less than what the seed does, so that it stops late rather than early (default: never)",
    )
    group.add_argument(
        "--storage",
        metavar="URL",
        help="Optuna's storage: sqlite:///FILE or postgresql://USER@HOST/DB\n"
        "(default: a journal file in the study's folder)",
    )
    group.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: sqlite:///FILE or http://HOST:PORT (default: MLFLOW_TRACKING_URI if it is\n"
        "set, else sqlite, RUNS/mlflow.db)",
    )
    group.add_argument(
        "--confirm",
        metavar="K",
        type=_count,
        help="after the search, run the K best settings again with fresh seeds; the best mean is\n"
        "the winner (default: 3 with --promote, else none)",
    )
    group.add_argument(
        "--seeds",
        metavar="R",
        type=_count,
        default=3,
        help="fresh seeds of each setting that is confirmed (default: 3)",
    )
    group.add_argument(
        "--score-test",
        action="store_true",
        help="score the winner on the test part at the end; once a study: a second time shows\n"
        "the first figure again",
    )
    group.add_argument(
        "--score-again",
        metavar="REASON",
        type=_reason,
        help="score another winner than the one that was scored, for a reason in words, which is\n"
        "kept with the score",
    )
    group.add_argument(
        "--promote",
        action="store_true",
        help="confirm, score on the test part, and make the winner the registry's champion if it\n"
        "is better than the one there is",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, space, split and planned trials; of a study that is there,\n"
        "those that are left; and start nothing",
    )
    group.add_argument(
        "--estimate",
        action="store_true",
        help="as --dry-run, and time a few training steps here: how long the study would take",
    )


def _search(top: Parser) -> None:
    group = top.add_argument_group(
        "search",
        "\n".join(
            ["samplers:"]
            + [f"  {name:<10} {text}" for name, text in SAMPLERS.items()]
            + ["pruners:"]
            + [f"  {name:<10} {text}" for name, text in PRUNERS.items()]
            + [
                f"tpe and gp start with {N_STARTUP_TRIALS} random trials: with as many or more at",
                "once (--concurrent), as many are random.",
                "A setting given by its flag (--lr 0.01) is not searched.",
            ]
        ),
    )
    group.add_argument("--sampler", metavar="NAME", default="tpe", help="default: tpe")
    group.add_argument("--pruner", metavar="NAME", default="hyperband", help="default: hyperband")
    group.add_argument(
        "--space",
        metavar="NAME|FILE",
        default="default",
        help=f"{', '.join(shipped_spaces())}, or a TOML file (default: default)",
    )


def _resources(top: Parser) -> None:
    group = top.add_argument_group("resources")
    group.add_argument(
        "--concurrent",
        metavar="INT",
        type=_count,
        help="trials at once (default: as many as fit); for a cluster that grows with what waits,\n"
        "say as many as it may grow to",
    )
    group.add_argument(
        "--cpus-per-trial",
        metavar="INT",
        type=_count,
        default=1,
        help="CPU cores, and threads, of a trial (default: 1)",
    )
    group.add_argument(
        "--gpus-per-trial",
        metavar="NUMBER",
        type=_share,
        help="GPUs of a trial; 0.5: two share one; auto: a share that fits as many as possible,\n"
        "found out by a short training (default: 1 if there is a GPU, else 0)",
    )
    group.add_argument(
        "--group",
        metavar="K",
        type=_count,
        default=1,
        help="with frozen backbones, a worker trains up to K trials of one shape as one, each to\n"
        "the next epoch at which the pruner compares; on a GPU, K steps then take the time of\n"
        "few (default: 1)",
    )
    group.add_argument(
        "--epoch-timeout",
        metavar="TIME",
        type=seconds,
        default=3600.0,
        help="an epoch that takes longer hangs: its worker is killed and the trial goes on with\n"
        "another one from its newest checkpoint (default: 1h)",
    )
    group.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to run on, from one of its nodes: auto or HOST:PORT\n"
        "(default: RAY_ADDRESS if it is set, else a Ray of its own on this machine)",
    )
    group.add_argument(
        "--shared",
        metavar="FOLDER",
        type=Path,
        help="on a cluster, a folder that all nodes see: checkpoints lie in it, and each node\n"
        "copies the data from it once (default: FDAN_SHARED if it is set, else all see RUNS)",
    )


def seconds(text: str) -> float:
    """
    >>> seconds("90s"), seconds("1h30m"), seconds("2h")
    (90.0, 5400.0, 7200.0)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or total <= 0:
        raise argparse.ArgumentTypeError(f"'{text}': expected a time such as 90s, 30m or 2h")
    return total


def _noise(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected auto, or a part of 1 such as 0.02")
    return value


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "it is empty: say in words why the test part is asked again"
        )
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number from 1")
    return int(text)


def _share(text: str) -> float | str:
    if text == AUTO:
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value == 0 or 0 < value < 1 or (value >= 1 and value == int(value))):
        raise argparse.ArgumentTypeError(
            f"'{text}': expected auto, 0, a part of a GPU such as 0.5, or 1"
        )
    return value
