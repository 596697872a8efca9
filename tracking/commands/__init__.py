"""The `python -m tracking` commands, a file each. Each has `add(commands)`, which adds its parser
and sets `run`, a function of the parsed arguments that returns the exit code."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from fdan.cli.arguments import Parser

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
