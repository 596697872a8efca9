"""What the benchmarks that compare have in common: turns, medians, the machine, JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Turns:
    """Seconds of each call by kind: wall time, and CPU time of all threads of the process, which
    says more where others want the cores too."""

    wall: Seconds
    cpu: Seconds

    def faster(self, kind: str, other: str) -> float:
        """How many times as fast as `other` the calls of `kind` were: median over the rounds."""
        pairs = zip(self.wall[other], self.wall[kind], strict=True)
        return statistics.median(b / a for b, a in pairs)

    def ms(self) -> dict[str, float]:
        """Median wall time of each kind."""
        return {name: 1000 * statistics.median(some) for name, some in self.wall.items()}

    def cpu_ms(self) -> dict[str, float]:
        """Median CPU time of each kind."""
        return {name: 1000 * statistics.median(some) for name, some in self.cpu.items()}


def by_turns(kinds: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> Turns:
    """One call of every kind a round, the other way round in each second round: whatever else the
    machine does meets all alike. The first `warm` rounds do not count."""
    wall: Seconds = {name: [] for name in kinds}
    cpu: Seconds = {name: [] for name in kinds}
    for number in range(-warm, rounds):
        for name in list(kinds)[:: -1 if number % 2 else 1]:
            began, before = time.perf_counter(), time.process_time()
            kinds[name]()
            if number >= 0:
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - before)
    return Turns(wall, cpu)


def machine(*packages: str) -> dict[str, Any]:
    """The processor, its cores and load, and the versions of these packages."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def heading(described: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in described.items())


def parser(name: str, about: str, rounds: int | None = None) -> argparse.ArgumentParser:
    """With --json and, where `rounds` is their default, --rounds."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if rounds is not None:
        made.add_argument(
            "--rounds",
            type=count,
            default=rounds,
            metavar="INT",
            help=f"how often each kind is timed (default: {rounds})",
        )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to this file, too"
    )
    return made


def count(text: str) -> int:
    """A whole number of a command line, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}': expected a number, 1 or more")
    return int(text)


def number(low: float, high: float, what: str) -> Callable[[str], float]:
    """A number of a command line, between these bounds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}': expected {what}, from {low:g} to {high:g}")
        return value

    return read


def write(file: Path | None, found: Mapping[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
