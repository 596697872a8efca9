"""The search command. Its arguments are read before anything heavy is imported."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from fdan.cli import arguments as shared
from fdan.cli.arguments import exit_code
from search.cli import resume_arguments as remembered
from search.cli.parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    return exit_code(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    typed = sys.argv[1:] if argv is None else argv
    before = remembered.words(typed)
    arguments = parser().parse_args([*before, *typed])
    # Here: --help and a misspelt option need no Optuna, a setting that is refused no Ray or MLflow.
    from search import config as plan

    resolved = plan.resolve(arguments, typed, before, lambda line: print(line, file=sys.stderr))
    if line := remembered.unknown(arguments):
        print(line, file=sys.stderr)
    plans_only = arguments.dry_run or arguments.estimate
    # While one core imports torch and Ray, the others have something to do.
    demo = None if plans_only else shared.ahead(arguments)
    with demo or contextlib.nullcontext():
        from search import pipeline as session

        return session.run(resolved, demo)
