"""python -m tracking rollback: make the previous champion champion again."""

from __future__ import annotations

import argparse
import sys

from tracking.commands.arguments import DEFAULT_URI, add_name, add_uri

HELP = "make the previous champion champion again"

ABOUT = """\
Move the alias `champion` back to the version that the alias `previous` names. The version that was
champion gets the reason as a tag and is not promoted a second time. Running it once more goes back
one version further.

  python -m tracking rollback --reason "wrong labels in take 3"
"""

EXIT_CODES = "exit codes: 0 done; 2 there is no previous champion, or MLflow is unavailable"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reason", metavar="TEXT", default="no reason given", help="why, in words; stored as a tag"
    )
    add_name(command)
    add_uri(command, DEFAULT_URI)


def run(arguments: argparse.Namespace) -> int:
    from tracking.promotion.rollback import rollback
    from tracking.registry.download import tracking_uri

    print(
        rollback(
            arguments.tracking_uri or tracking_uri(),
            arguments.name,
            arguments.reason,
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
    )
    return 0
