"""python -m benchmarks.outage: a study whose MLflow server dies in the middle and comes back."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks import comparing
from benchmarks.mlflow_server import MlflowServer, mlflow_server
from tracking.outbox.delivery_state import read_backlog
from tracking.outbox.spool import Spool
from tracking.record import Record
from tracking.tags import TRIAL

ABOUT = """\
Runs a real study (python search/run.py, demo corpus) that reports to a real MLflow server over
SQLite, started by this program. In the middle the server gets a SIGKILL; after the given minutes
it is started again on the same port and database. The study ends by its time budget.

throughput   epochs a second, by the times at which the driver recorded them in its spool: before
             the outage (without the first half minute), during it, and after it. Every trial has
             the same settings but the learning rate, which costs no time, and the same number of
             epochs; no pruner. So each part has the same mix of work, trial starts included: a
             trial is a fraction of a minute. The server's own start after the outage, which takes
             CPU time from the trials, belongs to no part and is shown by itself.

records      afterwards the spool is compared with the server: each metric (run, key, step) is in
             the database once, with its value; each parameter too; each artifact lies in the
             server's folder with its size; each run is there once, with the status it was closed
             with, and none is RUNNING.

exit codes: 0 the throughput during the outage is at least 0.95 of that before, and the server has
everything once; 1 one of them is not so; 2 the study itself failed"""

GOAL: Final = 0.95
WARM_UP_S: Final = 30.0
SERVER_START_S: Final = 45.0
"""What the study's time budget holds for it; if it takes longer, the part after is shorter."""

EPOCHS: Final = 60
STUDY: Final = "outage"

# One epoch costs the same in every trial.
_SETTINGS: Final = (
    *("--layers", "2", "--kernels", "5", "--alpha", "0.01", "--ratio", "2", "--scale", "1"),
    *("--decay", "5e-4", "--epochs", str(EPOCHS), "--sampler", "random", "--pruner", "none"),
)


@dataclass(frozen=True)
class Part:
    """A part of the study's time. start, end: seconds since 1970."""

    name: str
    start: float
    end: float
    epochs: int
    trials_opened: int

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def rate(self) -> float:
        return self.epochs / self.seconds


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with _folder(options.keep) as folder, mlflow_server(folder) as server:
        parts, code = _study(server, folder, options)
        if code != 0:
            log = (folder / "study.log").read_text()
            print(f"the study ended with exit code {code}:\n{log[-3000:]}", file=sys.stderr)
            return 2
        spool = folder / "runs" / STUDY / "spool"
        left = read_backlog(spool).unsent
        faults = differences(server, _records(spool))
        if (spool / "refused.jsonl").exists():
            faults.append("records were refused: " + (spool / "refused.jsonl").read_text()[:500])
        counted = _counted(server)
    ratio = parts[1].rate / parts[0].rate
    _show(parts, ratio, counted, left, faults)
    found = {
        "machine": comparing.machine("ray", "optuna", "mlflow", "torch"),
        "minutes": options.minutes,
        "parts": [{**asdict(part), "rate": part.rate} for part in parts],
        "ratio": ratio,
        "unsent": left,
        "faults": faults,
        **counted,
    }
    comparing.write(options.json, found)
    return 0 if ratio >= GOAL and not faults and not left else 1


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="fdan-outage-") as name:
            yield Path(name)
    else:
        kept.mkdir(parents=True)
        yield kept.resolve()


def _study(
    server: MlflowServer, folder: Path, options: argparse.Namespace
) -> tuple[list[Part], int]:
    """The parts before, during, starting, after; and the study's exit code."""
    before, outage, after = (60 * t for t in (options.before, options.minutes, options.after))
    budget = WARM_UP_S + before + outage + SERVER_START_S + after
    run = Path(__file__).resolve().parent.parent / "search" / "run.py"
    runs = folder / "runs"
    command = [
        *(sys.executable, str(run), "--runs", str(runs), "--study", STUDY, "--trials", "100000"),
        *("--tracking-uri", server.uri, "--time-budget", f"{round(budget)}s", *_SETTINGS),
    ]
    spool = runs / STUDY / "spool"
    with (folder / "study.log").open("wb") as log:
        study = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        while study.poll() is None and not _epochs(spool):
            time.sleep(0.5)
        first = time.time()
        _tell(f"the study runs; {WARM_UP_S:.0f} s to warm up, then {options.before:g} min")
        _sleep(WARM_UP_S + before, study)
        server.kill()
        killed = time.time()
        _tell(f"the server is dead, for {options.minutes:g} min")
        _sleep(outage, study)
        starting = time.time()
        server.start()
        started = time.time()
        _tell(f"the server is back after a start of {started - starting:.0f} s")
        study.wait(timeout=max(budget, 60) + 300)
    finally:
        if study.poll() is None:
            study.terminate()
            study.wait()
    records = _records(spool)
    last = max((r.time / 1000 for r in records if _is_epoch(r)), default=started)
    bounds = {
        "before": (first + WARM_UP_S, killed),
        "during": (killed, starting),
        "server starting": (starting, started),
        "after": (started, max(last, started + 1)),
    }
    return [_part(name, *times, records) for name, times in bounds.items()], study.returncode


def _part(name: str, start: float, end: float, records: Sequence[Record]) -> Part:
    inside = [record for record in records if start <= record.time / 1000 < end]
    opened = sum(record.kind == "open" for record in inside)
    return Part(name, start, end, sum(map(_is_epoch, inside)), opened)


def _is_epoch(record: Record) -> bool:
    return record.kind == "metrics" and record.run != "study"


def _epochs(spool: Path) -> bool:
    """Whether the first epoch was recorded; read beside the driver, which holds the spool."""
    return any(b'"k":"metrics","r":"0"' in path.read_bytes() for path in spool.glob("*.jsonl"))


def _records(folder: Path) -> list[Record]:
    spool = Spool(folder)
    try:
        return list(spool.records())
    finally:
        spool.close()


def _sleep(seconds: float, study: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + seconds
    while study.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def differences(server: MlflowServer, records: Sequence[Record]) -> list[str]:
    """What the server has not as the records say, or not once, in words."""
    ids: dict[str, list[str]] = {}
    for run_id, trial in server.rows("select run_uuid, value from tags where key = ?", TRIAL):
        ids.setdefault(trial, []).append(run_id)
    faults = [f"run '{run}' is there {len(found)} times" for run, found in ids.items() if found[1:]]
    metrics: dict[tuple[str, str, int], float] = {}
    params: dict[tuple[str, str], str] = {}
    status: dict[str, str] = {}
    files: dict[tuple[str, str], int] = {}
    for record in records:
        data = record.data
        if record.kind == "metrics":
            for key, value in data["values"].items():
                metrics[record.run, key, data["step"]] = _kept(float(value))
        elif record.kind == "open":
            status[record.run] = "RUNNING"
            params |= {(record.run, key): value for key, value in data["params"].items()}
        elif record.kind == "close":
            status[record.run] = data["status"]
        elif record.kind == "artifact":
            files[record.run, str(Path(data["folder"], Path(data["kept"]).name))] = data["bytes"]
    faults += [f"run '{run}' was never closed" for run, s in status.items() if s == "RUNNING"]
    runs = {found[0]: run for run, found in ids.items()}

    rows: dict[tuple[str, str, int], list[float]] = {}
    for run_id, key, step, value in server.rows("select run_uuid, key, step, value from metrics"):
        rows.setdefault((runs.get(run_id, run_id), key, step), []).append(value)
    for what in metrics.keys() | rows.keys():
        if rows.get(what) != [metrics.get(what)]:
            faults.append(f"metric {what}: {rows.get(what)} there, {metrics.get(what)} recorded")
    there = {
        (runs.get(run_id, run_id), key): value
        for run_id, key, value in server.rows("select run_uuid, key, value from params")
    }
    faults += [f"parameter {what} differs" for what in params if there.get(what) != params[what]]
    states = {
        runs.get(run_id, run_id): state
        for run_id, state in server.rows("select run_uuid, status from runs")
    }
    faults += [
        f"run '{run}' is {states.get(run)} there, {status.get(run)} recorded"
        for run in status.keys() | states.keys()
        if states.get(run) != status.get(run)
    ]
    (folder,) = (server.folder / "artifacts").glob("*")
    for (run, name), size in files.items():
        path = folder / ids.get(run, ["none"])[0] / "artifacts" / name
        if not path.is_file() or path.stat().st_size != size:
            faults.append(f"artifact {name} of run '{run}' is not there, or not whole")
    return faults


def _kept(value: float) -> float:
    """A number as MLflow's tables keep it: NaN as 0 (with a mark), infinity as the largest."""
    largest = sys.float_info.max
    return 0.0 if math.isnan(value) else max(-largest, min(value, largest))


def _counted(server: MlflowServer) -> dict[str, int]:
    """What is on the server."""
    ((metrics,),) = server.rows("select count(*) from metrics")
    ((runs,),) = server.rows("select count(*) from runs")
    ((running,),) = server.rows("select count(*) from runs where status = 'RUNNING'")
    files = sum(path.is_file() for path in (server.folder / "artifacts").rglob("*"))
    return {"metrics": metrics, "runs": runs, "running": running, "artifacts": files}


def _show(
    parts: Sequence[Part],
    ratio: float,
    counted: dict[str, int],
    left: int,
    faults: Sequence[str],
) -> None:
    print(f"{'part':<16}{'seconds':>9}{'epochs':>9}{'trials':>8}{'epochs/s':>10}{'of before':>11}")
    for part in parts:
        of_before = part.rate / parts[0].rate
        print(
            f"{part.name:<16}{part.seconds:>9.1f}{part.epochs:>9}{part.trials_opened:>8}"
            f"{part.rate:>10.3f}{of_before:>11.3f}"
        )
    print(f"during the outage {ratio:.3f} of before; goal {GOAL}")
    print(
        f"on the server: {counted['metrics']} metrics, {counted['artifacts']} artifacts,"
        f" {counted['runs']} runs, {counted['running']} of them RUNNING;"
        f" {left} records left in the spool"
    )
    for fault in faults[:20]:
        print(f"  FAULT {fault}")
    print(f"{len(faults)} differences between the spool and the server")


def _parser() -> argparse.ArgumentParser:
    parser = comparing.parser("outage", ABOUT)
    for name, default, text in (
        ("minutes", 5.0, "how long the server is away"),
        ("before", 2.5, "how long the study is watched before, after half a minute to warm up"),
        ("after", 2.0, "how long the study is watched once the server is back"),
    ):
        parser.add_argument(
            f"--{name}",
            type=comparing.number(0.1, 600, "minutes"),
            default=default,
            metavar="MINUTES",
            help=f"{text} (default: {default:g})",
        )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="new folder for the study, the database and both logs (default: a temporary one)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
