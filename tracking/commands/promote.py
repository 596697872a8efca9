"""Make a study's winner the champion.

Register the confirmed winner of a finished study and make it the champion (the version that the
alias `champion` names) if it passes all promotion gates:

  - The study is finished, its winner confirmed with fresh seeds and scored on the test part, and
    its own checks hold.
  - Paired tests say that it is better than each yardstick (logistic regression, SVM on MFCC
    statistics, speech alone) on the same utterances (p < 0.05). A winner that is not
    distinguishable from one passes with --accept-yardstick-tie. One that is significantly worse
    never passes.
  - The model is the one that was scored. Packaged and loaded by itself, it gives the same answers.
  - A paired test on the same utterances says that it is better than the champion (p < 0.05). A
    winner that is not distinguishable passes with --accept-tie if it needs fewer multiply-adds. One
    that is significantly worse never passes. The first winner passes without a test.

The former champion gets the alias `previous`, and `rollback` makes it champion again. Tags of both
versions say why. Two promotions at the same time wait for each other.

  python -m tracking promote demo --dry-run
  python -m tracking promote runs/demo

exit codes: 0 it is champion (--dry-run: it would be); 1 refused, with the reason; 2 no verdict: no
result in that folder, or MLflow is unavailable
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tracking.commands import STUDY, add_registry, print_step, study_folder

if TYPE_CHECKING:
    from tracking.promotion.promote import Verdict


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("study", metavar="STUDY", help=STUDY)
    text = "show all gates and the verdict, change nothing"
    add("--dry-run", action="store_true", help=text)
    text = "accept a winner that is not distinguishable from the champion, but cheaper"
    add("--accept-tie", action="store_true", help=text)
    text = "accept a winner that is not distinguishable from a yardstick; its version says so"
    add("--accept-yardstick-tie", action="store_true", help=text)
    text = "where its stores are now (default: where the study had them)"
    add("--stores", type=Path, metavar="FOLDER", help=text)
    add_registry(command, "the study's")


def run(arguments: argparse.Namespace) -> int:
    from tracking.promotion.promote import PromotionOptions, promote

    given = arguments
    options = PromotionOptions(
        given.name,
        given.tracking_uri,
        given.dry_run,
        given.accept_tie,
        given.stores,
        given.accept_yardstick_tie,
    )
    verdict = promote(study_folder(arguments.study), options, log=print_step)
    if options.dry_run and verdict.gates:
        _print_gates(verdict)
    if not verdict.promoted:
        print(f"error: not promoted: {verdict.reason}", file=sys.stderr)
        return 1
    if options.dry_run and verdict.gates:
        print(f"would be champion: {verdict.reason}")
    elif not verdict.changed:
        print(verdict.reason)
    else:
        instead = f" in place of {verdict.replaced}" if verdict.replaced else ""
        print(f"{verdict.version} is champion{instead}: {verdict.reason}")
    return 0


def _print_gates(verdict: Verdict) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fdan.cli.terminal import table_console

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("gate", no_wrap=True)
    table.add_column("")
    table.add_column("reason", overflow="fold")
    marks = {True: Text("passed", "green"), False: Text("failed", "red"), None: Text("-")}
    for gate in verdict.gates:
        table.add_row(gate.name, marks[gate.passed], Text(gate.reason))
    table_console().print(table)
