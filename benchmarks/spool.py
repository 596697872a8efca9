"""python -m benchmarks.spool: how fast the spool reaches a real MLflow server, and what tracking
costs the process that drives a search."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import comparing
from benchmarks.mlflow_server import MlflowServer, mlflow_server
from tracking.tracker import Tracker

ABOUT = """\
Measurements against a real MLflow server over SQLite, which this program starts and ends:

throughput   metrics recorded through a Tracker at full speed; the time from the first call until
             all of them are in the server's database, where they are counted. In the same run,
             its opponent: MlflowClient.log_metric, one by one.

cost         a search's events at their real pace: two trials at a time, each with an epoch of 12
             metrics every 0.25 s, opened and closed every 20 epochs, with 3 artifacts of 60 KB.
             Counted are, from when the server has been reached to the end of the pace,
               calls    wall time that the driver's thread spends inside the Tracker's methods,
                        waiting for the disk included
               threads  CPU time of the whole process except the driver's thread: the sender,
                        the syncer and whatever MLflow starts
             each as a share of wall time (100 % is one core), and added up. The driver's thread
             does nothing else here, so what is left of the process is tracking. The server's own
             work is in a process of its own and not counted. Told apart, because it is paid once
             in a search of any length: the CPU time of the start (imports, first contact) and of
             the end (drain).

database     the same cost without a server, straight to an SQLite database, as a search without
             --tracking-uri: MLflow's work on the database is then done in the driver's process,
             and counted. It has no goal.

exit codes: 0 the goals are reached, 1 one is not: 1,000 metrics/s; calls and threads together
under 2 % of the wall time"""

KEYS: Final = [f"validation/metric_{n}" for n in range(11)] + ["value"]
EPOCH_S: Final = 0.25
EPOCHS: Final = 20
AT_ONCE: Final = 2
FILES: Final = 3
FILE_BYTES: Final = 60_000

RATE_GOAL: Final = 1000.0
COST_GOAL: Final = 0.02


@dataclass(frozen=True)
class Throughput:
    """metrics, seconds: through the Tracker; on_server: rows counted in the database; recorded_s:
    until the driver could go on; opponent_*: MlflowClient.log_metric."""

    metrics: int
    seconds: float
    on_server: int
    recorded_s: float
    opponent_metrics: int
    opponent_seconds: float

    @property
    def rate(self) -> float:
        return self.metrics / self.seconds

    @property
    def opponent_rate(self) -> float:
        return self.opponent_metrics / self.opponent_seconds


@dataclass(frozen=True)
class Cost:
    """Seconds. wall, calls, threads: of the steady part; by_thread: CPU of each thread in it;
    start_cpu, end_cpu: CPU of the process before and after it, without the driver's thread."""

    wall: float
    events: int
    metrics: int
    calls: float
    slowest_call: float
    threads: float
    by_thread: dict[str, float]
    start_cpu: float
    end_cpu: float
    by_method: dict[str, float]

    @property
    def share(self) -> float:
        return (self.calls + self.threads) / self.wall


def throughput(server: MlflowServer, folder: Path, metrics: int, opponent_s: float) -> Throughput:
    values = {key: n / 7 for n, key in enumerate(KEYS)}
    epochs = metrics // len(KEYS)
    with Tracker(folder / "spool", server.uri, "throughput") as tracker:
        tracker.open_study("throughput", {}, {})
        for number in range(AT_ONCE):
            tracker.open_run(str(number), {}, {})
        _must(tracker.drain(120))  # MLflow is imported: that is `cost`'s to tell
        start = time.perf_counter()
        for epoch in range(epochs):
            tracker.log_metrics(str(epoch % AT_ONCE), epoch, values)
        recorded = time.perf_counter() - start
        _must(tracker.drain(600))
        seconds = time.perf_counter() - start
    ((count,),) = server.rows(
        "select count(*) from (select distinct run_uuid, key, step from metrics)"
    )
    ((rows,),) = server.rows("select count(*) from metrics")
    if not rows == count == epochs * len(KEYS):
        raise SystemExit(f"{rows} rows of {count} metrics on the server, not {epochs * len(KEYS)}")
    sent, took = _one_by_one(server, opponent_s)
    return Throughput(epochs * len(KEYS), seconds, rows, recorded, sent, took)


def _one_by_one(server: MlflowServer, seconds: float) -> tuple[int, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    run_id = client.create_run(client.create_experiment("opponent")).info.run_id
    client.log_metric(run_id, "first", 0.0)
    start, step, done = time.perf_counter(), 0, 0.0
    while done < seconds:
        client.log_metric(run_id, KEYS[step % len(KEYS)], step / 7, step=step // len(KEYS))
        step, done = step + 1, time.perf_counter() - start
    ((rows,),) = server.rows("select count(*) from metrics where run_uuid = ?", run_id)
    _must(rows == step + 1)
    return step, done


class _Calls:
    """Calls the Tracker's methods and takes the time of each."""

    def __init__(self) -> None:
        self.costs: list[tuple[str, float]] = []

    def __call__(self, method: Callable[..., Any], *arguments: Any) -> None:
        start = time.perf_counter()
        method(*arguments)
        self.costs.append((method.__name__, time.perf_counter() - start))


def cost(uri: str, folder: Path, seconds: float) -> Cost:
    file = folder / "figure.png"
    file.write_bytes(os.urandom(FILE_BYTES))
    zero = _others_cpu()
    with Tracker(folder / "spool", uri, "cost") as tracker:
        tracker.open_study("cost", {f"setting{n}": n for n in range(40)}, {})
        _must(tracker.drain(120))
        calls = _Calls()
        start_cpu, before = _others_cpu() - zero, _by_thread()
        start = time.perf_counter()
        _pace(tracker, calls, file, seconds)
        wall = time.perf_counter() - start
        threads, after = _others_cpu() - zero - start_cpu, _by_thread()
        _must(tracker.drain(120))
        _must(not tracker.sender.state.refused)
    methods: dict[str, float] = {}
    count: Counter[str] = Counter()
    for name, took in calls.costs:
        methods[name] = methods.get(name, 0.0) + took
        count[name] += 1
    return Cost(
        wall=wall,
        events=len(calls.costs),
        # Beside the epochs', one call for each trial that ended.
        metrics=(count["log_metrics"] - count["close_run"]) * len(KEYS),
        calls=sum(methods.values()),
        slowest_call=max(took for _, took in calls.costs),
        threads=threads,
        by_thread={name: cpu - before.get(name, 0.0) for name, cpu in after.items()},
        start_cpu=start_cpu,
        end_cpu=_others_cpu() - zero - start_cpu - threads,
        by_method=methods,
    )


def _pace(tracker: Tracker, calls: _Calls, file: Path, seconds: float) -> None:
    """A search's events, for about `seconds`; the places' epochs fall between one another's."""
    start = time.perf_counter()
    running: dict[int, tuple[int, int]] = {}
    numbers = iter(range(1_000_000))
    for tick in range(round(seconds / EPOCH_S * AT_ONCE)):
        pause = start + tick * EPOCH_S / AT_ONCE - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        place = tick % AT_ONCE
        if place not in running:
            # The places' trials do not open and close together.
            running[place] = number, _ = next(numbers), place * EPOCHS // AT_ONCE
            settings = {f"setting{n}": n * 0.1 for n in range(40)}
            calls(tracker.open_run, str(number), settings, {f"tag{n}": "text" for n in range(10)})
        number, epoch = running[place]
        values = {key: (number + 1) / (epoch + n + 1) for n, key in enumerate(KEYS)}
        calls(tracker.log_metrics, str(number), epoch, values)
        running[place] = number, epoch + 1
        if epoch + 1 == EPOCHS:
            calls(tracker.close_run, str(number), "COMPLETE", f"epoch {EPOCHS}: value 0.5")
            calls(tracker.log_metrics, "study", number, {"best_value": 0.5})
            for _ in range(FILES):
                calls(tracker.log_artifact, str(number), file)
            del running[place]


def _others_cpu() -> float:
    """CPU seconds of this process without this thread."""
    return time.process_time() - time.thread_time()


def _by_thread() -> dict[str, float]:
    """CPU seconds of each other thread that Python knows."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            found[thread.name] = found.get(thread.name, 0.0) + time.clock_gettime(clock)
    return found


def _must(true: bool) -> None:
    if not true:
        raise SystemExit("the measurement failed: the server did not get what was recorded")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    found: dict[str, Any] = {"cores": os.cpu_count()}
    reached = True
    with tempfile.TemporaryDirectory(prefix="fdan-spool-") as name:
        # The opponent imports MLflow, which `cost` must not find imported: it comes last.
        for what in ("cost", "database", "throughput"):
            if what not in options.only:
                continue
            folder = Path(name, what)
            folder.mkdir()
            with mlflow_server(folder) as server:
                if what == "throughput":
                    fast = throughput(server, folder, options.metrics, options.opponent)
                    _show_throughput(fast)
                    times = fast.rate / fast.opponent_rate
                    found[what] = {**asdict(fast), "rate": fast.rate, "times": times}
                    reached = reached and fast.rate >= RATE_GOAL
                    continue
                uri = server.uri
                if what == "database":
                    server.kill()  # it has made the tables
                    uri = f"sqlite:///{server.database}"
                spent = cost(uri, folder, options.seconds)
            _show_cost(spent, what)
            found[what] = {**asdict(spent), "share": spent.share}
            reached = reached and (what == "database" or spent.share < COST_GOAL)
    comparing.write(options.json, found)
    return 0 if reached else 1


def _show_throughput(found: Throughput) -> None:
    print(
        f"throughput to MLflow's server over SQLite, {found.on_server} metrics counted there\n"
        f"  Tracker                  {found.rate:8.0f} metrics/s"
        f"  ({found.metrics} in {found.seconds:.1f} s; recorded after {found.recorded_s:.1f} s)\n"
        f"  MlflowClient.log_metric  {found.opponent_rate:8.0f} metrics/s"
        f"  ({found.opponent_metrics} in {found.opponent_seconds:.1f} s)\n"
        f"  {found.rate / found.opponent_rate:.0f} times as fast; goal {RATE_GOAL:.0f} metrics/s",
        flush=True,
    )


def _show_cost(found: Cost, what: str) -> None:
    def share(seconds: float) -> str:
        return f"{100 * seconds / found.wall:6.3f} %"

    print(
        f"{what}: cost to the driver over {found.wall:.0f} s of a search, {found.events} calls,"
        f" {found.metrics / found.wall:.0f} metrics/s"
    )
    print(
        f"  wall time inside the Tracker's methods    {share(found.calls)}"
        f"  (slowest call {1000 * found.slowest_call:.1f} ms)"
    )
    for name, seconds in sorted(found.by_method.items(), key=lambda pair: -pair[1]):
        print(f"    {name:<40}{share(seconds)}")
    print(f"  CPU time of all other threads             {share(found.threads)}")
    for name, seconds in sorted(found.by_thread.items(), key=lambda pair: -pair[1]):
        print(f"    {name:<40}{share(seconds)}")
    goal = f"  (goal: under {100 * COST_GOAL:g} %)" if what == "cost" else ""
    print(f"  together                                  {share(found.calls + found.threads)}{goal}")
    print(
        f"  once in a search: start {found.start_cpu:.2f} s, end {found.end_cpu:.2f} s of CPU",
        flush=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = comparing.parser("spool", ABOUT)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("throughput", "cost", "database"),
        default=("throughput", "cost"),
        help="what to measure (default: throughput and cost)",
    )
    parser.add_argument(
        "--metrics",
        type=comparing.count,
        default=60_000,
        metavar="INT",
        help="metrics that the Tracker records for the throughput (default: 60000)",
    )
    parser.add_argument(
        "--opponent",
        type=comparing.number(1, 3600, "seconds"),
        default=10.0,
        metavar="SECONDS",
        help="how long log_metric is called one by one [s] (default: 10)",
    )
    parser.add_argument(
        "--seconds",
        type=comparing.number(1, 3600, "seconds"),
        default=60.0,
        metavar="SECONDS",
        help="length of the search whose cost is measured [s] (default: 60)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
