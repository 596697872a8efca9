"""Send what is left in a study's spool.

A study writes every record to its spool, a folder on the local disk, and from there to MLflow.
While the server is unavailable the records wait. The study itself sends them later, and so does the
same search command when it is started again; `flush` is for a study that is over.

  python -m tracking flush runs/demo
  python -m tracking flush runs/demo --tracking-uri http://localhost:5000

Sending twice is safe: the server stores each metric once. Nothing is removed from the spool before
the server has it.

exit codes: 0 the server has everything; 1 the server is unavailable or unusable, the rest waits in
the spool; 2 the folder or the URI is wrong, or the study is still running and sends by itself; 130
stopped by Ctrl-C, the rest waits in the spool
"""

import argparse
import contextlib
import logging
import sys

from tracking.commands import STUDY, study_folder
from tracking.outbox.delivery_state import Target
from tracking.outbox.sender import Sender
from tracking.outbox.spool import Spool
from tracking.uri import check_not_masked, mask_password


def run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    study = study_folder(arguments.study)
    folder = study / "spool" if (study / "spool").is_dir() else study
    stored = Target.load(folder)
    uri = arguments.tracking_uri or stored.uri
    check_not_masked(uri)
    with contextlib.closing(Spool(folder)) as spool:
        sender = Sender(spool, Target(uri, arguments.experiment or stored.experiment))
        try:
            return _send(spool, sender, arguments.wait)
        except KeyboardInterrupt:
            print("stopped; the rest waits in the spool", file=sys.stderr)
            return 130


def _send(spool: Spool, sender: Sender, wait: float) -> int:
    from rich.console import Console
    from rich.progress import Progress

    uri, state = mask_password(sender.server.uri), sender.state
    total, before = spool.last, state.sent
    if before == total:
        print(f"{uri} has all {total} records of {spool.folder}; nothing to send")
        return 0
    sender.start()
    time_left = wait
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"sending records to {uri}", total=total, completed=before)
        while not sender.drain(0.5):
            progress.update(bar, completed=state.sent)
            time_left = wait if sender.unavailable_since is None else time_left - 0.5
            if time_left <= 0 or sender.unusable:
                break
        progress.update(bar, completed=state.sent)
    sender.stop()
    if state.sent < total:
        reason, again = f"{uri} is unavailable ({sender.reason})", "once it is back"
        if sender.unusable:
            reason, again = sender.reason, "then"
        print(
            f"error: {reason}: {state.sent - before} records sent, {total - state.sent} wait "
            f"safely in {spool.folder}; run the same command again {again}",
            file=sys.stderr,
        )
        return 1
    print(f"{total - before} records sent; {uri} has all {total}")
    if state.refused:
        print(f"{len(state.refused)} values were rejected: {spool.folder / 'refused.jsonl'}")
    return 0


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("study", metavar="STUDY", help=f"{STUDY}, or the spool's folder")
    text = (
        "another server or database than the study used: it gets all records from the first "
        "one on (default: the one that the study used)"
    )
    add("--tracking-uri", metavar="URI", help=text)
    add("--experiment", metavar="NAME", help="MLflow experiment (default: the study's)")
    text = "how long to wait for a server that is away [s] (default: 10)"
    add("--wait", type=float, default=10.0, metavar="SECONDS", help=text)
