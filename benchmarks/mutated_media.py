"""Damaged media files through `prepare`: none may crash it, hang it or go missing.

Whole wav, flac, avi, mp4, jpg and csv files are made, mutated (truncated, bits flipped, wrong
headers, emptied, huge declared lengths) and prepared, many together with whole ones in corpora of
the layouts that we read. Each must be read or listed with a reason, exactly once, in bounded time
and memory, and every whole file beside them must be read. Exit code 1 if any of that is violated.
A thousand files take some two minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.mutants.apart import prepare_apart
from benchmarks.mutants.corpora import KINDS, write_corpora
from benchmarks.mutants.judge import Judgement, Verdict, judge
from benchmarks.mutants.mutations import MUTATIONS
from benchmarks.mutants.seeds import make_seeds
from fdan.corpora import Source
from fdan.media.worker import MEMORY_MB

# Seconds that prepare is told to give each of these files, which last a few seconds themselves.
TIMEOUT_S: Final = 20.0
_FEWEST: Final = len(KINDS) * len(MUTATIONS)

EPILOG: Final = f"""\
examples:
  python -m benchmarks.mutated_media
  python -m benchmarks.mutated_media --files 60 --seed 7 --json mutated.json
  python -m benchmarks.mutated_media --reasons

the table, a row for each kind and mutation:
  files        damaged files; an mp4 is prepared twice, for its sound and for its pictures
  read         it still gives images (a csv: no row of it was passed over)
  listed       not used, and the reason is told
  ended        the process that decoded it crashed, or was ended because it took more than
               {TIMEOUT_S:g} s or {MEMORY_MB} MB; the other files go on
  crashes      neither read nor listed, or prepare itself crashed (a violation)
  hangs        not ended in time (a violation)
  slowest, peak   of one file, in the process that decodes it; of a csv, of prepare as a whole
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutated-media-") as folder:
        judgements = run(Path(folder), arguments.files, arguments.seed)
    seconds = time.monotonic() - start
    verdicts = [verdict for judgement in judgements for verdict in judgement.verdicts]
    violations = [line for judgement in judgements for line in judgement.violations]
    console = Console(highlight=False, width=120)
    console.print(_table(verdicts))
    if arguments.reasons:
        _print_reasons(verdicts, console)
    for line in violations:
        console.print(f"violated: {line}", markup=False)
    print(
        f"{arguments.files} files, seed {arguments.seed}: {len(violations)} violations,"
        f" {seconds:.0f} s"
    )
    if arguments.json:
        _write(arguments.json, arguments.files, arguments.seed, seconds, verdicts, violations)
    return 1 if violations else 0


def run(folder: Path, files: int, seed: int) -> list[Judgement]:
    """Write, prepare and judge `files` damaged files; everything goes below `folder`."""
    rng = np.random.default_rng(seed)
    seeds = make_seeds(folder / "seeds", seed)
    judgements = []
    for number, corpus in enumerate(write_corpora(folder / "corpora", seeds, files, rng)):
        source = Source(corpus.name, corpus.root, corpus.modality)
        # A place of its own: stores of equal content would be found instead of made.
        outcome = prepare_apart(source, folder / "stores" / str(number), TIMEOUT_S)
        judgements.append(judge(corpus, outcome, TIMEOUT_S))
    return judgements


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutated_media",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--files",
        type=_files,
        default=1000,
        metavar="N",
        help="damaged files, spread evenly over kinds and mutations;"
        f" from {_FEWEST} (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other files for each seed (default: 0)"
    )
    parser.add_argument(
        "--reasons", action="store_true", help="also print each reason with how often it was given"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every file's result and the violations"
    )
    return parser


def _files(text: str) -> int:
    files = int(text)
    if files < _FEWEST:
        raise argparse.ArgumentTypeError(f"{files}: at least {_FEWEST}, one of each sort")
    return files


def _table(verdicts: list[Verdict]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("kind", "mutation"):
        table.add_column(title)
    for title in ("files", "read", "listed", "ended", "crashes", "hangs", "slowest s", "peak MB"):
        table.add_column(title, justify="right")
    kinds = list(dict.fromkeys(verdict.kind for verdict in verdicts))
    for kind in kinds:
        for mutation in MUTATIONS:
            cell = [v for v in verdicts if (v.kind, v.mutation) == (kind, mutation)]
            table.add_row(kind, mutation, *_row(cell), end_section=mutation == [*MUTATIONS][-1])
    table.add_row("all", "", *_row(verdicts))
    return table


def _row(cell: list[Verdict]) -> list[str]:
    counts = (
        len(cell),
        sum(v.read for v in cell),
        sum(not v.read and bool(v.reason) for v in cell),
        sum(v.ended for v in cell),
        sum(v.crash for v in cell),
        sum(v.hang for v in cell),
    )
    slowest, peak = max(v.seconds for v in cell), max(v.peak_mb for v in cell)
    return [*map(str, counts), f"{slowest:.2f}", f"{peak:.0f}"]


def _print_reasons(verdicts: list[Verdict], console: Console) -> None:
    given: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.reason:
            given.setdefault((verdict.kind, verdict.reason), []).append(verdict)
    for (kind, reason), same in given.items():
        console.print(f"{len(same):4} {kind:12} {same[0].file} {reason}", markup=False)


def _write(
    file: Path,
    files: int,
    seed: int,
    seconds: float,
    verdicts: list[Verdict],
    violations: list[str],
) -> None:
    result: dict[str, Any] = {
        "files": files,
        "seed": seed,
        "seconds": round(seconds, 1),
        "limits": {"seconds a file": TIMEOUT_S, "MB a file": MEMORY_MB},
        "violations": violations,
        "verdicts": [asdict(verdict) for verdict in verdicts],
    }
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(file)


if __name__ == "__main__":
    sys.exit(main())
