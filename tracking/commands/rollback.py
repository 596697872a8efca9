"""Make the previous champion champion again.

Move the alias `champion` back to the version that the alias `previous` names. The version that was
champion gets the reason as a tag and is not promoted a second time. Running it once more goes back
one version further.

  python -m tracking rollback --reason "wrong labels in take 3"

exit codes: 0 done; 2 there is no previous champion, or MLflow is unavailable
"""

import argparse

from tracking.commands import add_registry, add_runs, print_step, registry_uri


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reason", metavar="TEXT", default="no reason given", help="why, in words; stored as a tag"
    )
    add_registry(command)
    add_runs(command)


def run(arguments: argparse.Namespace) -> int:
    from tracking.promotion.rollback import rollback

    uri = registry_uri(arguments)
    print(rollback(uri, arguments.name, arguments.reason, print_step))
    return 0
