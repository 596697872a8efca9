"""`python -m tracking`: reports, records and registered models of studies.

examples:
  python -m tracking report runs/demo
  python -m tracking promote runs/demo --dry-run
  python -m tracking champion
  python -m tracking rollback --reason "wrong labels in take 3"
  python -m tracking flush runs/demo
"""

import sys
from collections.abc import Sequence
from typing import Final

from fdan.cli.arguments import Parser, exit_code
from fdan.machine.cpus import use_all_cpus
from tracking.commands import champion, flush, promote, report, rollback

COMMANDS: Final = (report, promote, rollback, champion, flush)


def parser() -> Parser:
    about, _, examples = (__doc__ or "").partition("\n\n")
    top = Parser(prog="python -m tracking", description=about, epilog=examples)
    top.add_version()
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        line, _, about = (module.__doc__ or "").partition(".\n\n")
        about, _, exit_codes = about.rpartition("\n\n")
        command = commands.add_parser(
            module.__name__.rpartition(".")[2],
            help=line[:1].lower() + line[1:],
            description=about,
            epilog=exit_codes,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    use_all_cpus()
    arguments = parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
