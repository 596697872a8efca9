"""What each `python -m tracking` command does, a file a command. Each has `add(verbs)`, which gives
it its arguments and sets `run`, a function of the parsed arguments that returns the exit code."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from fdan.cli.arguments import Parser

Verbs: TypeAlias = "argparse._SubParsersAction[Parser]"
