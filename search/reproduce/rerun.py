"""A trial trained again from what MLflow holds of it, its metrics compared epoch by epoch.

On the CPU the same code, data and number of threads give the same metrics to the last digit; what
differs here from there is said before the training starts.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fdan.cli.terminal import Preparing
from fdan.data.provenance import reopen
from fdan.data.split import Split
from fdan.data.store import open_store
from fdan.data.task import Task
from fdan.errors import ConfigError, DataError, WeightsError
from fdan.run_config import RunConfig
from search.reproduce.comparison import Compared, compare
from search.reproduce.mlflow_run import Recorded
from search.results import provenance
from tracking.tags import CPU, GIT, TIME_PREFIX, TRIAL, VERSION_PREFIX
from tracking.uri import sqlite_file

if TYPE_CHECKING:
    import torch

    from fdan.training.train import EpochReport

_PACKAGES: Final = ("fdan-search", "torch", "torchvision", "numpy", "python")
"""Their versions can change a trial; Ray, Optuna and MLflow only surround it."""

_EVERY_S: Final = 10.0
"""Without a terminal, a line at most this often."""


@dataclass(frozen=True)
class RerunOptions:
    """What of a repetition is not in the run."""

    stores: Path | None = None
    """the folder that its stores lie in now; None: where they lay"""
    weights: Path | None = None
    """the backbone's weights, if they were moved"""
    epochs: int | None = None
    """only the first so many"""


def open_data(run: Recorded, uri: str, stores: Path | None) -> tuple[Task, Split]:
    """Open the data that the run was trained on, divided as it was.

    Args:
        run: The run.
        uri: Where it was read.
        stores: Where its stores lie now; None looks where they lay, beside MLflow's database and
            in ./runs.

    Raises:
        DataError: A store is gone or holds other data.
    """
    facts = {**run.origin, "stores": {}}
    for modality, entries in run.origin["stores"].items():
        facts["stores"][modality] = [
            {**entry, "folder": str(_find(run, entry, uri, stores))} for entry in entries
        ]
    return reopen(facts)


def _find(run: Recorded, entry: Mapping[str, str], uri: str, stores: Path | None) -> Path:
    before = Path(entry["folder"])
    if stores is not None:
        places = [stores.expanduser().absolute()]
    else:
        database = sqlite_file(uri)
        places = [before.parent, Path("runs/stores").absolute()]
        places += [database.parent.absolute() / "stores"] if database is not None else []
    other = None
    for place in places:
        folder = place / before.name
        if folder.exists():
            if open_store(folder).fingerprint == entry["fingerprint"]:
                return folder
            other = other or folder
    if other is not None:
        raise DataError(f"{other}: holds other data than run {run.run_id} was trained on")
    raise DataError(
        f"run {run.run_id} ({run.name}) was trained on the prepared store {before.name}, which is"
        f" not in {' or '.join(map(str, dict.fromkeys(places)))}: prepare it again (its settings"
        " are in the run's config.json), or name the folder that it is in with --stores"
    )


def elsewhere(run: Recorded, device: str) -> list[tuple[str, str, str]]:
    """What may change a trial and is not as it was.

    Args:
        run: The run.
        device: That it is repeated on.

    Returns:
        (name, recorded value, value here) each.
    """
    versions = provenance.versions()
    pairs = [
        (name, run.tags.get(VERSION_PREFIX + name, ""), versions.get(VERSION_PREFIX + name, ""))
        for name in _PACKAGES
    ]
    pairs += [
        ("code (git)", run.tags.get(GIT, ""), provenance.revision()),
        ("CPU", run.tags.get(CPU, ""), provenance.cpu()),
        ("device", run.machine["device"], device),
        ("trained", _company(int(run.machine.get("group", 1))), _company(1)),
    ]
    return [
        (what, there or "unknown", here or "unknown")
        for what, there, here in pairs
        if there != here
    ]


def _company(group: int) -> str:
    return "alone" if group == 1 else f"in groups of up to {group}"


def rerun(
    run: Recorded,
    uri: str,
    console: Console,
    options: RerunOptions,
) -> tuple[Compared, list[tuple[str, str, str]]]:
    """Train a recorded trial again and compare.

    Args:
        run: The run.
        uri: Where it was read.
        console: For progress and what differs.
        options: Of the repetition.

    Returns:
        The comparison, and what was not as it was (`elsewhere`).

    Raises:
        FdanError: The run cannot be repeated here.
    """
    has = max(run.epochs)
    stores, weights = options.stores, options.weights
    wanted = has if options.epochs is None else options.epochs
    if not 1 <= wanted <= has:
        raise ConfigError(f"--epochs {wanted}: run {run.run_id} ({run.name}) has {has} epochs")
    settings = {**run.settings, "epochs": wanted}
    if weights is not None:
        settings["weights"] = str(weights.expanduser().absolute())
    config = RunConfig.from_mapping(settings, f"run {run.run_id}")
    task, parts = open_data(run, uri, stores)

    # Here: a run that cannot be repeated needs no torch to be told so.
    from fdan.device import choose_device

    device = choose_device("auto" if run.machine["device"] == "cuda" else "cpu")
    _same_weights(run, config)
    differing = elsewhere(run, device.type)
    _tell(run, task, differing, console)
    found = _train(run, config, task, parts, device, console)
    return compare(run.epochs, found), differing


def _same_weights(run: Recorded, config: RunConfig) -> None:
    from fdan.model.backbones import find_weights

    found = find_weights(config.model.backbone, config.model.weights)
    before = str(run.machine["weights"])
    if before.startswith("sha256 ") and found.sha256 != before.removeprefix("sha256 "):
        raise WeightsError(
            f"{found.file}: holds other weights than run {run.run_id} began with; name the right"
            " file with --weights"
        )


def _train(
    run: Recorded,
    config: RunConfig,
    task: Task,
    parts: Split,
    device: torch.device,
    console: Console,
) -> dict[int, dict[str, float]]:
    """Epoch -> metrics."""
    import torch

    from fdan.training.train import train
    from fdan.training.training_data import load_training_data

    found: dict[int, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        kept = Path(run.machine["features"])
        if not kept.is_dir():
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fdan-rerun-")))
        with Preparing(console) as preparing:
            data = load_training_data(task, parts, config, device, kept, preparing.features)
        advance = stack.enter_context(_progress(config.training.epochs, console))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(int(run.machine["threads"]))  # another number sums in another order

        def report(epoch: EpochReport, _: Any) -> None:
            found[epoch.epoch] = {
                name: float(value)
                for name, value in epoch.metrics.items()
                if not name.startswith(TIME_PREFIX)
            }
            advance(epoch.epoch)

        train(config, data, report, device=device)
    return found


def as_json(
    run: Recorded, compared: Compared, differing: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The comparison as a JSON object.

    Args:
        run: The run.
        compared: Its metrics and those of the repetition.
        differing: What `elsewhere` gave.
    """
    return {
        "run": run.run_id,
        "study": run.study,
        "trial": run.tags[TRIAL],
        "state": run.state,
        "epochs": compared.epochs,
        "recorded": compared.recorded,
        "metrics": compared.metrics,
        "equal": not compared.differing,
        "differs": [{"what": w, "there": t, "here": h} for w, t, h in differing],
        "largest": [
            {
                "metric": one.metric,
                "epoch": one.epoch,
                "there": _plain(one.there),
                "here": _plain(one.here),
            }
            for one in compared.largest
        ],
    }


def _tell(
    run: Recorded, task: Task, differing: Sequence[tuple[str, str, str]], console: Console
) -> None:
    """What is trained again, and what is another here, before it starts."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    say(
        f"{run.name}: {run.state}, {len(run.epochs)} epochs recorded,"
        f" seed {run.settings.get('seed')}, {run.machine['threads']} thread(s)"
    )
    say(f"data as there: {task.name}, fingerprint {task.fingerprint[:12]}")
    if not differing:
        say("versions, code, CPU and device as there")
        return
    say("another here than there, so the last digits may differ:", "yellow")
    width = max(len(what) for what, _, _ in differing)
    for what, there, here in differing:
        say(f"  {what:<{width}}  there {there}, here {here}", "yellow")


@contextlib.contextmanager
def _progress(epochs: int, console: Console) -> Iterator[Any]:
    """Gives a function that is told each epoch."""
    if not console.is_terminal:
        last = time.monotonic()

        def line(epoch: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                console.print(f"epoch {epoch} of {epochs}", highlight=False)

        yield line
        return
    with Progress(
        TextColumn("training again, epoch"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        row = bars.add_task("", total=epochs)
        yield lambda epoch: bars.update(row, completed=epoch)


def _plain(value: float) -> float | None:
    """JSON has no word for what is not a number."""
    return value if math.isfinite(value) else None
