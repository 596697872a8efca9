"""python -m tracking promote STUDY: make a study's confirmed winner the champion, or say why."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.commands import Verbs
from tracking.commands.named import STUDY, add_name, add_uri, study_folder

if TYPE_CHECKING:
    from tracking.promotion.promote import Verdict

_ABOUT = """\
Register the confirmed winner of a finished study, and let the alias `champion` name it, if

  - the study is whole: finished, confirmed, scored on the test part, its invariants hold;
  - the model is the one that was scored, and answers so again, loaded by itself;
  - a paired test on the same utterances says that it is better than the champion (p < 0.05).
    One that is not distinguishable passes with --accept-tie where it costs fewer multiply-adds.
    One that is significantly worse never passes. Without a champion it becomes the first.

The champion before it keeps the alias `previous`; `rollback` makes it champion again. Tags of both
versions say why. Two promotions at once wait for each other.

  python -m tracking promote demo --dry-run
  python -m tracking promote runs/demo"""

_EXITS = """\
exit codes: 0 it is champion (--dry-run: it would be); 1 refused, with the reason; 2 no verdict: no
result in that folder, or MLflow is away"""


def add(verbs: Verbs) -> None:
    """Its arguments."""
    command = verbs.add_parser(
        "promote", help="make a study's winner the champion", description=_ABOUT, epilog=_EXITS
    )
    command.set_defaults(run=run)
    command.add_argument("study", metavar="STUDY", help=STUDY)
    command.add_argument(
        "--dry-run", action="store_true", help="show all gates and the verdict, change nothing"
    )
    command.add_argument(
        "--accept-tie",
        action="store_true",
        help="take a winner that is not distinguishable from the champion, but cheaper",
    )
    command.add_argument(
        "--stores", type=Path, metavar="FOLDER", help="where its stores lie now (default: as then)"
    )
    add_name(command)
    add_uri(command, "the study's")


def run(arguments: argparse.Namespace) -> int:
    """The command; see _EXITS for its exit code."""
    from tracking.promotion.promote import promote

    verdict = promote(
        study_folder(arguments.study),
        name=arguments.name,
        uri=arguments.tracking_uri,
        dry_run=arguments.dry_run,
        accept_tie=arguments.accept_tie,
        stores=arguments.stores,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if arguments.dry_run and verdict.gates:
        show(verdict)
    if not verdict.promoted:
        print(f"refused: {verdict.reason}", file=sys.stderr)
        return 1
    if arguments.dry_run and verdict.gates:
        print(f"would be champion: {verdict.reason}")
    elif not verdict.changed:
        print(verdict.reason)
    else:
        instead = f" in place of {verdict.replaced}" if verdict.replaced else ""
        print(f"{verdict.version} is champion{instead}: {verdict.reason}")
    return 0


def show(verdict: Verdict) -> None:
    """The gates as a table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("gate", no_wrap=True)
    table.add_column("")
    table.add_column("why", overflow="fold")
    marks = {True: Text("open", "green"), False: Text("closed", "red"), None: Text("-")}
    for gate in verdict.gates:
        table.add_row(gate.name, marks[gate.ok], Text(gate.detail))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=120)).print(table)
