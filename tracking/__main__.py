"""`python -m tracking`: what a study leaves behind, its records and its models."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from fdan.arguments import Parser
from fdan.errors import DiskFull, FdanError, disk_full
from fdan.process_exit import leave
from tracking.commands import champion, flush, promote, report, rollback

COMMANDS: Final = (report, promote, rollback, champion, flush)

_EXAMPLES = """\
examples:
  python -m tracking report runs/demo
  python -m tracking promote runs/demo --dry-run
  python -m tracking champion
  python -m tracking rollback --reason "wrong labels in take 3"
  python -m tracking flush runs/demo"""


def parser() -> Parser:
    top = Parser(prog="python -m tracking", description=__doc__, epilog=_EXAMPLES)
    verbs = top.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except FdanError as error:
        print(f"tracking: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("tracking: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not disk_full(error):
            raise
        print(f"tracking: {DiskFull(getattr(error, 'filename', None) or error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    leave(main())
