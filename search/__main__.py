"""`python -m search`: look at studies, and repeat their trials."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fdan.cli.arguments import Parser, exit_code
from fdan.machine.cpus import use_all_cpus

EXAMPLES = """\
examples:
  python -m search list
  python -m search status demo
  python -m search status demo --json
  python -m search rerun 0f3c5a1d9b7e4c2f8a6d4e2b0c9f7a5d
      train that trial again and compare each epoch's metrics with those that MLflow has

status and list only read, and work while the study runs. Running and continuing a study is
`python search/run.py --help`."""


def _parser() -> Parser:
    parser = Parser(prog="python -m search", description=__doc__, epilog=EXAMPLES)
    parser.add_version()
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    status = verbs.add_parser("status", help="how far a study is, and how to continue it")
    status.add_argument("name", metavar="NAME", help="the study's name")
    _add_runs(status)
    status.add_argument(
        "--storage",
        metavar="URL",
        help="its Optuna storage (default: the one that it was made in, if that has no password)",
    )
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(command=_status)
    list_ = verbs.add_parser("list", help="all studies, a line each")
    _add_runs(list_)
    list_.set_defaults(command=_list)
    rerun = verbs.add_parser(
        "rerun",
        help="train a trial again from what MLflow holds; same metrics: exit code 0, else 1",
    )
    rerun.add_argument("run_id", metavar="RUN_ID", help="its run in MLflow")
    rerun.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow: sqlite:///FILE or http://HOST:PORT\n"
        "(default: MLFLOW_TRACKING_URI if it is set, else ./runs/mlflow.db)",
    )
    rerun.add_argument(
        "--stores",
        metavar="FOLDER",
        type=Path,
        help="where the prepared stores are now (default: where they were, beside MLflow's\n"
        "database, or ./runs/stores)",
    )
    rerun.add_argument(
        "--weights",
        metavar="FILE",
        type=Path,
        help="where the backbones' state dict is now, if it was a file that was moved",
    )
    rerun.add_argument("--epochs", metavar="INT", type=int, help="train only the first INT epochs")
    rerun.add_argument("--json", action="store_true", help="for programs")
    rerun.set_defaults(command=_rerun)
    return parser


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", metavar="FOLDER", type=_absolute, default="runs", help="default: runs"
    )


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _status(arguments: argparse.Namespace) -> int:
    from search.cli.status_view import show_nested_status, show_status
    from search.nested.status import is_nested, read_nested_status
    from search.study.status import read_status

    runs, name, storage = arguments.runs, arguments.name, arguments.storage
    if is_nested(runs / name):
        nested = read_nested_status(runs, name, storage)
        if arguments.json:
            print(json.dumps(asdict(nested), indent=1))
        else:
            show_nested_status(nested)
        return 0
    status = read_status(runs, name, storage)
    if arguments.json:
        print(json.dumps(asdict(status), indent=1))
    else:
        show_status(status)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from search.cli.status_view import show_studies

    show_studies(arguments.runs)
    return 0


def _rerun(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from search.reproduce.mlflow_run import read
    from tracking.uri import environment_uri

    uri = arguments.tracking_uri or environment_uri()
    run = read(uri, arguments.run_id)
    # Here: this imports what training needs.
    from fdan.cli.terminal import table_console
    from search.reproduce.rerun import RerunOptions, rerun

    options = RerunOptions(arguments.stores, arguments.weights, arguments.epochs)
    repeated = rerun(run, Console(stderr=True), options)
    if arguments.json:
        print(json.dumps(repeated.as_json(), indent=1))
    else:
        repeated.comparison.show(table_console())
    return 1 if repeated.comparison.differing else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    use_all_cpus()
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: arguments.command(arguments))


if __name__ == "__main__":
    sys.exit(main())
