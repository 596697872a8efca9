"""Trains a trial again from its MLflow run and compares the metrics epoch by epoch.

On the CPU the same code, data and number of threads give the same metrics to the last digit; what
differs from the recorded run is printed before the training starts.
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
from fdan.data.folds import trained_splits
from fdan.data.provenance import reopen
from fdan.data.split import Split, SplitConfig
from fdan.data.store import open_store
from fdan.data.task import Task
from fdan.errors import ConfigError, DataError, WeightsError
from fdan.machine.rights import follow_group
from fdan.run_config import RunConfig
from search.reproduce.comparison import Comparison, compare
from search.reproduce.mlflow_run import RecordedRun
from search.results import provenance
from tracking.tags import CPU, GIT, STATE, STUDY, TIME_PREFIX, TRIAL, VERSION_PREFIX
from tracking.uri import sqlite_file

if TYPE_CHECKING:
    import torch

    from fdan.training.folds.train import FoldsEpoch
    from fdan.training.train import Diverged, EpochReport

_PACKAGES: Final = ("fdan-search", "torch", "torchvision", "numpy", "python")
"""Packages whose versions can change a trial; Ray, Optuna and MLflow do not."""

Change = tuple[str, str, str]
"""What differs from the recorded environment: its name, the recorded value, the present one."""

_LINE_INTERVAL_S: Final = 10.0  # shortest time between progress lines without a terminal


@dataclass(frozen=True)
class RerunOptions:
    """Options of a repetition, which the run does not record."""

    stores: Path | None = None  # folder of its stores; None: where they were
    weights: Path | None = None  # weights file of the backbone, if it was moved
    epochs: int | None = None  # number of epochs to repeat; None: all


@dataclass(frozen=True)
class Rerun:
    """A run, and how its repetition compares."""

    run: RecordedRun
    comparison: Comparison
    changes: Sequence[Change]

    def as_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        tags, comparison = self.run.tags, self.comparison

        def finite(value: float) -> float | None:  # JSON cannot express others
            return value if math.isfinite(value) else None

        return {
            "run": self.run.run_id,
            "study": tags[STUDY],
            "trial": tags[TRIAL],
            "state": tags[STATE],
            "epochs": comparison.epochs,
            "recorded": comparison.recorded,
            "metrics": comparison.metrics,
            "equal": not comparison.differing,
            "differs": [{"what": w, "there": t, "here": h} for w, t, h in self.changes],
            "largest": [
                {
                    "metric": item.metric,
                    "epoch": item.epoch,
                    "there": finite(item.recorded),
                    "here": finite(item.repeated),
                }
                for item in comparison.largest
            ],
        }


def _open_data(run: RecordedRun, stores: Path | None) -> tuple[Task, tuple[Split, ...]]:
    """Open the data that the run was trained on, with the same split, or folds. Without a folder of
    `stores` they are sought beside MLflow's database, where they were, and in ./runs."""
    found = {
        modality: [{**entry, "folder": str(_find_store(run, entry, stores))} for entry in entries]
        for modality, entries in run.origin["stores"].items()
    }
    task, _ = reopen({**run.origin, "stores": found})
    config = SplitConfig.from_mapping(run.origin["split"], f"run {run.run_id}'s split")
    return task, trained_splits(task, config)


def _find_store(run: RecordedRun, entry: Mapping[str, str], stores: Path | None) -> Path:
    recorded = Path(entry["folder"])
    if stores is not None:
        folders = [stores.expanduser().absolute()]
    else:
        database = sqlite_file(run.uri)
        folders = [database.parent.absolute() / "stores"] if database is not None else []
        folders += [recorded.parent, Path("runs/stores").absolute()]
    for folder in folders:
        follow_group(folder)
    present = [parent / recorded.name for parent in folders if (parent / recorded.name).exists()]
    for folder in present:
        if open_store(folder).fingerprint == entry["fingerprint"]:
            return folder
    if present:
        raise DataError(f"{present[0]}: holds other data than run {run.run_id} was trained on")
    raise DataError(
        f"run {run.run_id} ({run.name}) was trained on the prepared store {recorded.name}, which is"
        f" not in {' or '.join(map(str, dict.fromkeys(folders)))}: prepare it again (its settings"
        " are in the run's config.json), or name the folder that it is in with --stores"
    )


def _environment_changes(run: RecordedRun, device: str) -> list[Change]:
    """What differs from the recorded environment and may change the metrics."""
    versions, group = provenance.versions(), int(run.machine.get("group", 1))
    pairs = [
        (name, run.tags.get(VERSION_PREFIX + name, ""), versions.get(VERSION_PREFIX + name, ""))
        for name in _PACKAGES
    ]
    pairs += [
        ("code (git)", run.tags.get(GIT, ""), provenance.revision()),
        ("CPU", run.tags.get(CPU, ""), provenance.cpu()),
        ("device", run.machine["device"], device),
        ("trained", "alone" if group == 1 else f"in groups of up to {group}", "alone"),
    ]
    return [
        (name, recorded or "unknown", present or "unknown")
        for name, recorded, present in pairs
        if recorded != present
    ]


def rerun(run: RecordedRun, console: Console, options: RerunOptions) -> Rerun:
    """Train a recorded trial again and compare. FdanError where it cannot be repeated here.

    Args:
        run: Recorded run.
        console: Console for progress and differences.
        options: Options of the repetition.
    """
    recorded = max(run.epochs)
    epochs = recorded if options.epochs is None else options.epochs
    if not 1 <= epochs <= recorded:
        raise ConfigError(f"--epochs {epochs}: run {run.run_id} ({run.name}) has {recorded} epochs")
    settings = {**run.settings, "epochs": epochs}
    if options.weights is not None:
        settings["weights"] = str(options.weights.expanduser().absolute())
    config = RunConfig.from_mapping(settings, f"run {run.run_id}")
    task, splits = _open_data(run, options.stores)

    # Imported here: a run that cannot be repeated is refused without torch.
    from fdan.device import choose_device
    from fdan.model.backbones import find_weights

    device = choose_device("auto" if run.machine["device"] == "cuda" else "cpu")
    weights = find_weights(config.model.backbone, config.model.weights)
    recorded_weights = str(run.machine["weights"])
    if recorded_weights.startswith("sha256 ") and recorded_weights != f"sha256 {weights.sha256}":
        raise WeightsError(
            f"{weights.file}: holds other weights than run {run.run_id} began with; name the right"
            " file with --weights"
        )
    changes = _environment_changes(run, device.type)
    _print_run(run, task, changes, console)
    repeated = _train(run, config, (task, splits), device, console)
    return Rerun(run, compare(run.epochs, repeated), changes)


def _train(
    run: RecordedRun,
    config: RunConfig,
    data: tuple[Task, tuple[Split, ...]],
    device: torch.device,
    console: Console,
) -> dict[int, dict[str, float]]:
    """Train a trial; returns its metrics by epoch."""
    import torch

    from fdan.training.folds.train import train_folds
    from fdan.training.train import train
    from fdan.training.training_data import load_training_data

    epochs: dict[int, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        database = sqlite_file(run.uri)
        features = Path(run.machine["features"])
        if database is not None and (beside := database.absolute().parent / "features").is_dir():
            features = beside
        if not features.is_dir():
            features = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fdan-rerun-")))
        with Preparing(console) as preparing:
            task, splits = data
            loaded = load_training_data(
                task, splits[0], config, device, features, preparing.features
            )
        advance = stack.enter_context(_progress(config.training.epochs, console))
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(int(run.machine["threads"]))  # their number sets the order of sums

        def report(epoch: EpochReport, _: Any) -> None:
            epochs[epoch.epoch] = {
                name: float(value)
                for name, value in epoch.metrics.items()
                if not name.startswith(TIME_PREFIX)
            }
            advance(epoch.epoch)

        if len(splits) == 1:
            train(config, loaded, report, device=device)
        else:
            folds = [loaded.divided(task, split) for split in splits]

            def report_folds(
                epochs: Sequence[FoldsEpoch], diverged: Mapping[int, Diverged]
            ) -> None:
                for error in diverged.values():
                    raise error
                report(epochs[0].epoch, None)

            train_folds([config], folds, report_folds, device=device)
    return epochs


def _print_run(run: RecordedRun, task: Task, changes: Sequence[Change], console: Console) -> None:
    """Print what is trained again and what differs, before it starts."""

    def print_line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    print_line(
        f"{run.name}: {run.tags[STATE]}, {len(run.epochs)} epochs recorded,"
        f" seed {run.settings.get('seed')}, {run.machine['threads']} thread(s)"
    )
    print_line(f"data as recorded: {task.name}, fingerprint {task.fingerprint[:12]}")
    if not changes:
        print_line("versions, code, CPU and device as recorded")
        return
    print_line("these differ from the recorded run, so the last digits may differ:", "yellow")
    width = max(len(name) for name, _, _ in changes)
    for name, recorded, present in changes:
        print_line(f"  {name:<{width}}  recorded {recorded}, here {present}", "yellow")


@contextlib.contextmanager
def _progress(epochs: int, console: Console) -> Iterator[Any]:
    """Show a progress bar; yields a function that takes each epoch."""
    if not console.is_terminal:
        last = time.monotonic()

        def line(epoch: int) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_INTERVAL_S:
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
