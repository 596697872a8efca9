"""The search command. Its options are read before Ray and MLflow are imported."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from fdan.cli.arguments import exit_code
from search.cli.parser import parse
from search.config.options import to_arguments, to_toml
from search.config.resume_options import new_study_note, remembered_options
from search.config.spec import resolve


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    return exit_code(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    command = parse(argv)
    remembered = remembered_options(command.options)
    options = {**remembered, **command.options}
    spec = resolve(options, to_arguments(remembered))
    if command.print_config:
        print(to_toml(options), end="")
        return 0
    if note := new_study_note(command.options):
        print(note, file=sys.stderr)
    if command.dry_run or command.estimate:
        from search.planning.dry_run import dry_run

        dry_run(spec, estimate_time=command.estimate)
        return 0
    # While one core imports torch and Ray, the others have something to do.
    demo = spec.data.generate_demo()
    with demo or contextlib.nullcontext():
        from search.pipeline import run

        finished = run(spec, demo)
    print(finished.summary)
    return finished.exit_code
