"""python -m tracking rollback: the champion before this one is champion again."""

from __future__ import annotations

import argparse
import sys

from tracking.commands import Verbs
from tracking.commands.named import HERE, add_name, add_uri

_ABOUT = """\
Let the alias `champion` name the version again that `previous` names. The version that was champion
keeps the reason as a tag, and is not promoted a second time. Once more goes back one further.

  python -m tracking rollback --reason "wrong labels in take 3"
"""

_EXITS = "exit codes: 0 done; 2 nothing to go back to, or MLflow is away"


def add(verbs: Verbs) -> None:
    """Its arguments."""
    command = verbs.add_parser(
        "rollback",
        help="make the previous champion champion again",
        description=_ABOUT,
        epilog=_EXITS,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "--reason", metavar="TEXT", default="no reason given", help="why, in words; kept as a tag"
    )
    add_name(command)
    add_uri(command, HERE)


def run(arguments: argparse.Namespace) -> int:
    """The command; see _EXITS for its exit code."""
    from tracking.promotion.promote import rollback
    from tracking.registry.download import tracking_uri

    done = rollback(
        name=arguments.name,
        uri=arguments.tracking_uri or tracking_uri(),
        reason=arguments.reason,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(done)
    return 0
