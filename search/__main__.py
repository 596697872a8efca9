"""`python -m search`: look at studies."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fdan.arguments import Parser, exit_code

EXAMPLES = """\
examples:
  python -m search list
  python -m search status demo
  python -m search status demo --json

Both only read, and work while the study runs. Running and continuing a study is
`python search/run.py --help`."""


def parser() -> Parser:
    top = Parser(prog="python -m search", description=__doc__, epilog=EXAMPLES)
    verbs = top.add_subparsers(metavar="COMMAND", required=True)
    status = verbs.add_parser("status", help="how far a study is, and how to go on with it")
    status.add_argument("name", metavar="NAME", help="the study's name")
    _runs(status)
    status.add_argument(
        "--storage",
        metavar="URL",
        help="its Optuna storage (default: the one that it was made in, if that has no password)",
    )
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(command=_status)
    every = verbs.add_parser("list", help="all studies, a line each")
    _runs(every)
    every.set_defaults(command=_list)
    return top


def _runs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--runs", metavar="FOLDER", type=Path, default=Path("runs"), help="default: runs"
    )


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from search import status

    runs = arguments.runs.expanduser().absolute()
    found = status.read(runs, arguments.name, arguments.storage)
    if arguments.json:
        print(status.as_json(found))
    else:
        status.show(found, Console())
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from search import status

    console = Console()
    runs = arguments.runs.expanduser().absolute()
    if not status.show_all(runs, console):
        console.print(f"no studies in {runs}", highlight=False, soft_wrap=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    arguments = parser().parse_args(argv)
    return exit_code(lambda: arguments.command(arguments))


if __name__ == "__main__":
    sys.exit(main())
