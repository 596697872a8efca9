"""python -m benchmarks.chaos: kill what a study is made of, and look at what is left."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.chaos import campaign, disk, postgres, server
from benchmarks.chaos.course import Terms
from benchmarks.chaos.faults import HELP
from benchmarks.chaos.material import Material
from benchmarks.chaos.ours import Ours
from benchmarks.chaos.schedule import Schedule, shuffled
from benchmarks.chaos.stock import Stock
from benchmarks.chaos.subject import ROOT, Ground, Subject
from benchmarks.chaos.table import Result, show
from fdan.cli.arguments import Parser, exit_code

_DEFAULTS: Final = {
    "driver": 5,
    "worker": 5,
    "raylet": 3,
    "server": 3,
    "stop": 3,
    "postgres": 2,
    "disk": 1,
}

_FIRST: Final = 8
"""Trials of a study at first."""
_MORE: Final = 6

ABOUT = """\
Runs real studies on a small demo corpus, with a real MLflow server, and does harm to their
processes at random moments: while the search starts, runs and ends. What was ended is started
again with the same command, until the study is done; a study that is done too early is asked for
more trials. Then Optuna's storage and MLflow's database are read from outside and must agree with
each other, with what they held at each kill, and with trials trained undisturbed.

faults:"""

EXAMPLES = """\
examples:
  python -m benchmarks.chaos
      a few of each kind, about ten minutes on two cores
  python -m benchmarks.chaos --driver 50 --worker 50 --seed 7
      nothing but kills of the search and of its workers
  python -m benchmarks.chaos --driver 5 --worker 5 --subject both
      this project beside stock Ray Tune (OptunaSearch, ASHA, MLflowLoggerCallback, Tuner.restore)

--seed draws the faults, their order and their moments; what the moments hit is the machine's
chance, so a violation may take several runs to come again. FOLDER/output has what each driver
printed.

exit codes: 0 no violation of ours, 1 violations, 2 a wrong option"""


@dataclass(frozen=True)
class _Stage:
    """All that campaigns share."""

    ground: Ground
    server: server.Server
    scratch: Path
    clock: float


def main(argv: list[str] | None = None) -> int:
    # So that whoever ends this program ends all that it has started, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return exit_code(lambda: _main(_parser().parse_args(argv)))


def _main(arguments: argparse.Namespace) -> int:
    given = {kind: getattr(arguments, kind) for kind in HELP}
    counts = {kind: count or 0 for kind, count in given.items()}
    if all(count is None for count in given.values()):
        counts = _DEFAULTS
    if not any(counts.values()):
        _parser().error("no faults are asked for: give --driver 5, say")
    names = ("ours", "stock") if arguments.subject == "both" else (arguments.subject,)
    kept = arguments.folder
    if kept is not None and (kept / "output").exists():
        _parser().error(f"--folder {kept}: holds an earlier run; choose another")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        _parser().error(f"--json {arguments.json}: no such folder")
    folder = (kept or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    results = []
    with _stage(folder, arguments.epochs, arguments.training_seed) as stage:
        for name in names:
            subject: Subject = Ours(stage.ground) if name == "ours" else Stock(stage.ground)
            results.append(_put_to_test(subject, counts, arguments.seed, stage))
    show(results, Console(width=None if sys.stdout.isatty() else 120))
    if arguments.json is not None:
        text = json.dumps([result.as_dict() for result in results], indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    ours = sum(result.violated for result in results if result.subject == "ours")
    if kept is None and not ours:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"\nstores and output: {folder}")
    return 1 if ours else 0


@contextlib.contextmanager
def _stage(folder: Path, epochs: int, seed: int) -> Iterator[_Stage]:
    """Data, server and a place for temporary files; the server prepares itself meanwhile."""
    clock = time.monotonic()
    # Ray's socket names, below it, must fit into 107 characters.
    scratch = Path(tempfile.mkdtemp(prefix="ch-", dir="/tmp"))
    folder.mkdir(parents=True, exist_ok=True)
    _line(clock, f"preparing data and server in {folder}")
    making = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.chaos.material", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        with server.running(folder / "mlflow") as up:
            out, _ = making.communicate()
            if making.returncode:
                raise SystemExit("the data could not be prepared")
            material = Material(**json.loads(out.splitlines()[-1]))
            ground = Ground(folder, material, up.uri, up.database, up.artifacts, epochs, seed)
            yield _Stage(ground, up, scratch, clock)
    finally:
        making.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def _put_to_test(subject: Subject, counts: dict[str, int], seed: int, stage: _Stage) -> Result:
    """Campaigns with all the faults: one on a journal, one on PostgreSQL."""
    result = Result(subject.name)
    rng = random.Random(seed)
    wanted = dict(counts)
    for kind, refused in (("postgres", postgres.refused), ("disk", _no_disk(stage))):
        if wanted[kind] and (why := refused()):
            result.skipped[kind] = why
            wanted[kind] = 0
    on_postgres = {"postgres": wanted.pop("postgres")}
    for kinds in (wanted, on_postgres):
        if not any(kinds.values()):
            continue
        with _database(kinds is on_postgres) as database:
            terms = Terms(
                subject,
                stage.ground,
                stage.server,
                Schedule(shuffled(kinds, rng), rng),
                rng,
                _MORE,
                _teller(stage.clock),
                stage.scratch,
                database,
            )
            name = f"{subject.name}-{'journal' if database is None else 'postgres'}"
            mount = disk.mounted if kinds.get("disk") else None
            for done in campaign.run(terms, name, _FIRST, mount):
                result.add(done)
    return result


@contextlib.contextmanager
def _database(wanted: bool) -> Iterator[postgres.Postgres | None]:
    if not wanted:
        yield None
        return
    # In a place of its own: the user postgres may not enter every folder.
    place = Path(tempfile.mkdtemp(prefix="chaos-postgres-", dir="/tmp"))
    try:
        with postgres.postgres(place) as database:
            yield database
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _no_disk(stage: _Stage) -> Callable[[], str]:
    return lambda: disk.refused(stage.ground.folder / "mount")


def _teller(clock: float) -> Callable[[str], None]:
    return lambda text: _line(clock, text)


def _line(clock: float, text: str) -> None:
    passed = round(time.monotonic() - clock)
    print(f"[{passed // 60:3d}m{passed % 60:02d}s] {text}", file=sys.stderr, flush=True)


def _parser() -> Parser:
    lines = [f"  {kind:<10} {text}" for kind, text in HELP.items()]
    parser = Parser(
        prog="benchmarks.chaos",
        usage="python -m benchmarks.chaos [options]",
        description="\n".join((ABOUT, *lines)),
        epilog=EXAMPLES,
    )
    faults = parser.add_argument_group("faults", "how many; where none is given, a few of each")
    for kind, default in _DEFAULTS.items():
        help_ = f"default: {default}; 0 where another kind is given"
        faults.add_argument(f"--{kind}", metavar="INT", type=_count, help=help_)
    faults.add_argument(
        "--seed", metavar="INT", type=int, default=0, help="of faults and moments (default: 0)"
    )
    studies = parser.add_argument_group("studies")
    studies.add_argument(
        "--subject",
        choices=("ours", "stock", "both"),
        default="ours",
        help="what is put to the test (default: ours)",
    )
    studies.add_argument(
        "--epochs",
        metavar="INT",
        type=_count,
        default=60,
        help="of a trial, each less than 0.1 s (default: 60)",
    )
    studies.add_argument(
        "--training-seed", metavar="INT", type=int, default=0, help="of the studies (default: 0)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", type=Path, help="write the result there, too")
    output.add_argument(
        "--folder",
        metavar="DIR",
        type=Path,
        help="where everything goes, kept afterwards (default: a temporary one, kept after\n"
        "violations)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
