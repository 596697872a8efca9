"""python -m tracking flush STUDY: send what a study has recorded and the server does not have."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from fdan.errors import FdanError
from tracking.backend.server import Server
from tracking.commands import Commands
from tracking.commands.arguments import STUDY, study_folder
from tracking.outbox.delivery_state import DeliveryState
from tracking.outbox.sender import Sender
from tracking.outbox.spool import Spool
from tracking.outbox.target import Target
from tracking.uri import check_uri, is_masked, mask_password

_ABOUT = """\
A study writes every record to its spool, a folder on the local disk, and from there to MLflow.
While the server is unavailable the records wait. The study itself sends them later, and so does the
same search command when it is started again; `flush` is for a study that is over.

  python -m tracking flush runs/demo
  python -m tracking flush runs/demo --tracking-uri http://localhost:5000

Sending twice is safe: the server stores each metric once. Nothing is removed from the spool before
the server has it."""

_EXITS = """\
exit codes: 0 the server has everything; 1 the server is unavailable or unusable, the rest waits in
the spool; 2 the folder or the URI is wrong, or the study is still running and sends by itself; 130
stopped by Ctrl-C, the rest waits in the spool"""


def run(arguments: argparse.Namespace) -> int:
    """The command; see _EXITS for its exit code."""
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    try:
        return flush(
            study_folder(arguments.study),
            arguments.tracking_uri,
            arguments.experiment,
            arguments.wait,
        )
    except KeyboardInterrupt:
        print("stopped; the rest waits in the spool", file=sys.stderr)
        return 130


def flush(folder: Path, uri: str | None, experiment: str | None, wait: float) -> int:
    """Send what is left of the study or spool in `folder`; see _EXITS for the code returned."""
    spool_folder = folder / "spool" if (folder / "spool").is_dir() else folder
    noted = Target.load(spool_folder)
    target = Target(uri or noted.uri, experiment or noted.experiment)
    if is_masked(target.uri):
        raise FdanError(
            f"the password of {target.uri} was not kept; give the whole URI with --tracking-uri"
        )
    check_uri(target.uri)
    spool = Spool(spool_folder)
    try:
        ledger = DeliveryState(spool_folder, mask_password(target.uri), spool.last)
        server = Server(target.uri, target.experiment, target.artifacts(spool_folder))
        return _send(spool, ledger, server, wait)
    finally:
        spool.close()


def _send(spool: Spool, ledger: DeliveryState, server: Server, wait: float) -> int:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    uri = mask_password(server.uri)
    total, before = spool.last, ledger.sent
    if before == total:
        print(f"{uri} has all {total} records of {spool.folder}; nothing to send")
        return 0
    sender = Sender(spool, ledger, server)
    sender.start()
    columns = (
        TextColumn("sending to {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeRemainingColumn(),
    )
    patience = wait
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(uri, total=total, completed=before)
        while not sender.drain(0.5):
            progress.update(bar, completed=ledger.sent)
            patience = patience - 0.5 if sender.unavailable_since is not None else wait
            if patience <= 0 or sender.broken:
                break
        progress.update(bar, completed=ledger.sent)
    sender.stop()
    if ledger.sent < total:
        why = f"{uri} is away ({sender.reason})"
        again = "once it is back"
        if sender.broken:
            why, again = sender.reason, "then"
        print(
            f"error: {why}: {ledger.sent - before} records sent, {total - ledger.sent} wait "
            f"safely in {spool.folder}; run the same command again {again}",
            file=sys.stderr,
        )
        return 1
    print(f"{total - before} records sent; {uri} has all {total}")
    if ledger.refused:
        print(f"{ledger.refused} values were refused for good: {spool.folder / 'refused.jsonl'}")
    return 0


def add(commands: Commands) -> None:
    command = commands.add_parser(
        "flush", help="send what is left in a study's spool", description=_ABOUT, epilog=_EXITS
    )
    command.set_defaults(run=run)
    command.add_argument("study", metavar="STUDY", help=f"{STUDY}, or the spool's folder")
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="another server or database than the study used: it gets all records from the first "
        "one on (default: the one that the study used)",
    )
    command.add_argument(
        "--experiment", metavar="NAME", help="MLflow experiment (default: the study's)"
    )
    command.add_argument(
        "--wait",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for a server that is away [s] (default: 10)",
    )
