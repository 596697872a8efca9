"""python -m benchmarks.wall_time: where the wall time of a search goes, from the shell's prompt to
the shell's prompt."""

from __future__ import annotations

import itertools
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import phases
from benchmarks.comparing import heading, machine, parser, write

ABOUT = """\
What `make search` does, set-up aside (its search/run.py on the demo corpus, everything made anew in
a temporary folder), with a thread in the driver and in each of Ray's workers that looks a hundred
times a second at where its process is. Nothing in the search is changed for it.

While no trial is under way, wall time goes to what the driver's main thread is in. While one is, it
is shared evenly by the trials that can run at once, and each share goes to what its worker is in:
what the driver does meanwhile costs no wall time, except where a worker waits for it.

imports        modules of the driver and of workers, the interpreter's own start included
Ray start and end   ray.init and its end, twice where the winner is confirmed
steps          training steps
validation     the bank, the validation part, its scores
idle           no trial for this share of the machine: a worker that starts, one that is between two
               trials or waits for the driver's answer, the last trial of a round running alone
everything else     the rest of the driver (Optuna, Tune, the plan) and of workers (building
               networks, opening the data)

exit codes: 0 the goal is reached, 1 it is not: all but steps and validation at most a third"""

GOAL: Final = 1 / 3
_START: Final = "interpreter's start and end"
_ORDER: Final = (
    phases.IMPORTS,
    phases.RAY,
    phases.PREPARING,
    phases.FEATURES,
    phases.STEPS,
    phases.VALIDATION,
    phases.CHECKPOINTS,
    phases.TRACKING,
    phases.ENDING,
    phases.IDLE,
    phases.ELSE,
)


@dataclass(frozen=True)
class Span:
    began: float
    ended: float
    phase: str


def read(file: Path) -> list[Span]:
    """What a process's file holds; a last line that its end tore is passed over."""
    spans = []
    for line in file.read_text(encoding="ascii").splitlines(keepends=True):
        if line.endswith("\n"):
            began, ended, phase = line.rstrip("\n").split(" ", 2)
            spans.append(Span(float(began), float(ended), phase))
    return spans


def table(
    driver: Sequence[Span], workers: Sequence[Sequence[Span]], began: float, ended: float
) -> dict[str, float]:
    """Seconds of wall time by phase; they add up to ended - began."""
    trials = [_trials(spans) for spans in workers]
    spans = [Span(began, driver[0].began, phases.IMPORTS), *driver]
    spans.append(Span(driver[-1].ended, ended, phases.ELSE))
    edges = sorted({began, ended, *(t for one in (spans, *trials) for s in one for t in _ends(s))})
    at_once = 1
    lanes = [iter(one) for one in trials]
    lane_now: list[Span | None] = [next(lane, None) for lane in lanes]
    driver_lane = iter(spans)
    driver_now = next(driver_lane, None)
    slices: list[tuple[float, str, list[str]]] = []
    for start, end in itertools.pairwise(edges):
        while driver_now is not None and driver_now.ended <= start:
            driver_now = next(driver_lane, None)
        busy = []
        for number, lane in enumerate(lanes):
            while (one := lane_now[number]) is not None and one.ended <= start:
                lane_now[number] = next(lane, None)
            if one is not None and one.began <= start:
                busy.append(one.phase)
        at_once = max(at_once, len(busy))
        here = phases.ELSE if driver_now is None else driver_now.phase
        slices.append((end - start, here, busy))
    found: dict[str, float] = defaultdict(float)
    for length, here, busy in slices:
        if not busy:
            found[phases.IDLE if here == phases.WAITING else here] += length
        for phase in busy:
            found[phase] += length / at_once
        if busy:
            found[phases.IDLE] += length * (at_once - len(busy)) / at_once
    return dict(found)


def _trials(spans: Sequence[Span]) -> list[Span]:
    """Of a worker, what is not idle, imports of its start included."""
    return [span for span in spans if span.phase != phases.IDLE and span.ended > span.began]


def _ends(span: Span) -> tuple[float, float]:
    return span.began, span.ended


def of_make() -> list[str]:
    """The arguments that `make search` gives to search/run.py."""
    root = Path(__file__).resolve().parents[1]
    plan = ["make", "--no-print-directory", "-C", str(root), "-n", "-o", ".venv/ready", "search"]
    done = subprocess.run(plan, capture_output=True, text=True, check=True)
    return shlex.split(done.stdout.partition("search/run.py")[2])


def search(folder: Path, words: Sequence[str]) -> tuple[float, float, float]:
    """Run it; the clock before and after, and the CPU seconds of it and all that it started."""
    seen = folder / "phases"
    seen.mkdir()
    (folder / "sitecustomize.py").write_text("from benchmarks.phases import watch\nwatch()\n")
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(folder), str(root), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), phases.FOLDER: str(seen)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, str(root / "search/run.py"), "--runs", str(folder / "runs"), *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with (folder / "output").open("w") as out:
        code = subprocess.run(command, env=environment, stdout=out, stderr=out).returncode
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code not in (0, 1):  # 1: the winner was not good enough to be promoted
        raise SystemExit((folder / "output").read_text() + f"\nthe search ended with {code}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return began, ended, cpu


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    described = machine("torch", "ray", "optuna", "mlflow")
    print(heading(described), flush=True)
    words = [*of_make(), *options.search]
    with tempfile.TemporaryDirectory(prefix="fdan-wall-", dir="/tmp") as name:
        folder = Path(name)
        began, ended, cpu = search(folder, words)
        (driver,) = (read(file) for file in (folder / "phases").glob("driver-*"))
        workers = [read(file) for file in sorted((folder / "phases").glob("worker-*"))]
        found = table(driver, workers, began, ended)
    wall = ended - began
    rest = 1 - (found.get(phases.STEPS, 0.0) + found.get(phases.VALIDATION, 0.0)) / wall
    _show(words, found, wall, rest)
    write(
        options.json,
        {"machine": described, "search": words, "wall_s": wall, "cpu_s": cpu, "rest": rest}
        | {"phases_s": found},
    )
    return 0 if rest <= GOAL else 1


def _show(words: Sequence[str], found: Mapping[str, float], wall: float, rest: float) -> None:
    print(f"search/run.py {' '.join(words)}: {wall:.1f} s")
    for phase in _ORDER:
        seconds = found.get(phase, 0.0)
        print(f"  {phase:<26}{seconds:>8.1f} s{100 * seconds / wall:>7.1f} %")
    print(f"  all but steps and validation: {100 * rest:.1f} %; goal {100 * GOAL:.1f} %")


def _parser():
    made = parser("wall_time", ABOUT)
    made.add_argument(
        "search",
        nargs="*",
        metavar="ARGUMENT",
        help="further arguments of the search, after --, as in: -- --trials 6",
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
