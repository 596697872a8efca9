"""What a command line amounts to, resolved before anything is started."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fdan.cli import arguments as shared
from fdan.corpora import check_folder
from fdan.data.split import PartCount, SplitConfig
from fdan.data.task import Task
from fdan.errors import ConfigError, unknown
from fdan.files import sha256_file
from fdan.media.faces import FaceSettings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.run_config import RunConfig
from search.callbacks.progress import duration, shown
from search.cli.parser import AUTO
from search.optimizer.pruners import PRUNERS, describe_decisions
from search.optimizer.samplers import SAMPLERS, make_sampler
from search.optimizer.space import Space
from search.optimizer.space_file import load_space
from search.study import storage
from search.study.open import Identity
from search.study.status import Status
from search.tune.resources import Resources
from tracking.uri import TRACKING_URI_VARIABLE, absolute_uri, default_uri, mask_password

RESERVED = ("data", "stores", "features", "mlflow.db", "mlartifacts", ".", "..")
"""Names in --runs that no study can have."""


@dataclass(frozen=True)
class Plan:
    """A study as it will be run. Paths are absolute: workers have other working folders."""

    arguments: argparse.Namespace
    settings: shared.Settings
    space: Space
    runs: Path
    each: Resources
    cluster: str | None
    """Address of the Ray cluster to run on; None: a Ray of its own."""
    shared: Path | None
    """Folder that all of the cluster's nodes see."""
    typed: tuple[str, ...]
    """The command line."""
    before: tuple[str, ...]
    """What it leaves out and an earlier start of the study said."""

    @property
    def trials(self) -> int:
        """Trials in all; a grid has no more than its combinations."""
        wanted: int = self.arguments.trials
        if self.arguments.sampler != "grid":
            return wanted
        size = self.space.size()
        assert size is not None
        return min(wanted, size)

    def extending(self, held: int) -> str:
        """What a study that has its trials, `held` of them, can be told to have more."""
        size = self.space.size() if self.arguments.sampler == "grid" else None
        if size is not None and held >= size:
            return "they are the whole grid"
        more = held + 20 if size is None else min(held + 20, size)
        return f"--trials {more} extends it"

    def of_trials(self, count: int) -> Plan:
        """The same with so many trials in all."""
        arguments = argparse.Namespace(**{**vars(self.arguments), "trials": count})
        return replace(self, arguments=arguments)

    @property
    def confirm(self) -> int:
        """Settings to run again after the search."""
        asked: int | None = self.arguments.confirm
        return asked if asked is not None else 3 if self.arguments.promote else 0

    @property
    def epochs(self) -> int:
        epochs: int = self.settings.values["epochs"]
        return epochs

    @property
    def seed(self) -> int:
        seed: int = self.settings.values["seed"]
        return seed

    @property
    def fixed(self) -> dict[str, Any]:
        """RunConfig's settings that are not searched."""
        return {k: v for k, v in self.settings.run.items() if k not in self.space.names}

    @property
    def shares_gpus(self) -> bool:
        """Whether it is to be found out how many trials fit on a GPU; until then, each has one."""
        return self.each.gpus > 0 and self.arguments.gpus_per_trial == AUTO

    @property
    def device(self) -> str:
        """In a worker, to which Ray shows only the GPUs of its trial."""
        return "cuda" if self.each.gpus else "cpu"

    @property
    def tracking_uri(self) -> str:
        uri: str | None = self.arguments.tracking_uri
        return uri or default_uri(self.runs)

    @property
    def words(self) -> list[str]:
        """The whole command line, what was remembered included, without passwords."""
        return [mask_password(word) for word in (*self.before, *self.typed)]

    def name(self, task: Task) -> str:
        """The study's name: given, or the task's in letters that suit a folder."""
        if self.arguments.study:
            return str(self.arguments.study)
        if self.settings.preset == "demo":
            return "demo"
        return re.sub(r"[^a-z0-9]+", "-", task.name.lower()).strip("-")

    def identity(self, data: str | None) -> Identity:
        """data: fingerprint; None where it is not known yet."""
        fixed = {k: v for k, v in self.fixed.items() if k != "seed"}
        weights = Path(fixed["weights"])
        if weights.is_file():  # what is in it counts, not where it lies
            fixed["weights"] = f"sha256 {sha256_file(weights)}"
        split = self.settings.of(SplitConfig)
        return Identity(self.space.as_dict(), data, split, fixed, self.seed)


def resolve(
    arguments: argparse.Namespace,
    typed: Sequence[str] = (),
    before: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Check everything that can be checked without reading data. Raises FdanError's kinds.
    say: hears what is waited for."""
    for kind, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        name = getattr(arguments, kind)
        if name not in known:
            raise ConfigError(f"--{kind}: {unknown(kind, name, known)}")
    if arguments.study is not None and not re.fullmatch(r"[\w.-]+", arguments.study):
        raise ConfigError(
            f"--study '{arguments.study}': it names a folder, so letters, digits, '.', '_' and '-'"
        )
    if arguments.study in RESERVED:
        raise ConfigError(f"--study {arguments.study}: that name in --runs has another use")
    if arguments.storage is not None:
        storage.check(arguments.storage)
    for source in shared.sources(arguments):
        if source.path != shared.demo_folder(arguments.runs):  # which is generated
            check_folder(source)
    known_settings = RunConfig().as_dict()
    whole = load_space(arguments.space, known_settings)
    address = arguments.address or os.environ.get("RAY_ADDRESS")
    cluster = None if address in (None, "", "local") else address
    gpus = _gpus(arguments, cluster, say)
    if (
        cluster is not None
        and arguments.device == "auto"
        and arguments.gpus_per_trial in (None, AUTO)
    ):
        # To be remembered: tomorrow the cluster's GPU nodes may be there a minute later, or not.
        typed = (*typed, "--device", "cuda" if gpus else "cpu")
    settings = shared.settings_of(arguments, gpu=gpus > 0)
    pinned = settings.chosen & set(known_settings)
    if arguments.group > 1 and settings.run["tuning"] != "frozen":
        raise ConfigError(f"--group {arguments.group}: only --tuning frozen trains trials as one")
    searched = whole.resolve(settings.run, frozenset(pinned))
    if not searched.dimensions:
        raise ConfigError(
            f"--space {arguments.space}: each of its dimensions is pinned by a flag, so nothing is"
            " left to search; python -m fdan train runs one setting"
        )
    for dimension in searched.dimensions:
        for value in dimension.extremes:
            try:
                RunConfig.check(dimension.name, value)
            except ConfigError as error:
                place = f"--space {arguments.space}: dimensions.{dimension.name}"
                raise ConfigError(f"{place}: {error}") from None
    make_sampler(arguments.sampler, searched, settings.values["seed"], 0)
    for point in searched.enqueue:
        RunConfig.from_mapping({**settings.run, **point}, f"--space {arguments.space}: enqueue")
    runs = arguments.runs.expanduser().absolute()
    arguments.runs = runs
    server = arguments.tracking_uri or os.environ.get(TRACKING_URI_VARIABLE) or None
    if server is not None:  # absolute: the sender's thread sees the working folder change
        if arguments.tracking_uri is None:  # to be remembered: a shell may be without it tomorrow
            typed = (*typed, "--tracking-uri", absolute_uri(server))
        arguments.tracking_uri = absolute_uri(server)
    each = Resources(arguments.cpus_per_trial, gpus)
    return Plan(
        arguments,
        settings,
        searched,
        runs,
        each,
        cluster,
        _shared(arguments, cluster),
        tuple(typed),
        tuple(before),
    )


def show(
    plan: Plan, task: Task, parts: list[PartCount], console: Console, there: Status | None = None
) -> None:
    """--dry-run. there: the study, where it is one that would be continued."""
    console.print(f"[bold]study {plan.name(task)}[/]: {task.name}, {plan.runs / plan.name(task)}")
    console.print(_settings(plan))
    console.print(_space(plan))
    console.print(_split(parts))
    speakers = [part for part in parts if part.speakers]
    for part in speakers:
        listed = ", ".join(f"{name} {count}" for name, count in part.speakers.items())
        console.print(f"  {part.part}: {listed}", highlight=False)
    console.print(
        "  (counted from the listing: unreadable files and copies are found when it is prepared)",
        style="dim",
    )
    console.print(f"\n[bold]planned[/]: {_planned(plan, there)}", highlight=False)
    if there is not None and there.driver:
        console.print(
            f"  it is being run by {there.driver}: until that ends, another start is refused",
            highlight=False,
        )
    console.print(
        f"  the pruner compares {describe_decisions(plan.arguments.pruner, plan.epochs)}",
        highlight=False,
    )
    if plan.arguments.group > 1:
        console.print(
            f"  a worker trains up to {plan.arguments.group} trials of one shape as one",
            highlight=False,
        )
    if plan.confirm:
        seeds = plan.arguments.seeds
        console.print(
            f"  then the best {plan.confirm} again with {seeds} fresh seeds each:"
            f" {plan.confirm * seeds} runs of {plan.epochs} epochs",
            highlight=False,
        )
    console.print("nothing was started (--dry-run)")


def _planned(plan: Plan, there: Status | None) -> str:
    left, before = plan.trials, ""
    if there is not None:
        left = max(0, left - there.done)
        if not left:
            held = there.done
            return f"the study is there and has {held} trials: no more ({plan.extending(held)})"
        before = f"the study is there and has {there.done} of {plan.trials} trials: "
    budget = plan.arguments.time_budget
    return (
        f"{before}{left} {'more' if before else 'trials'} of at most {plan.epochs} epochs"
        f" ({left * plan.epochs} epochs at most), sampler {plan.arguments.sampler},"
        f" pruner {plan.arguments.pruner}" + (f", for at most {duration(budget)}" if budget else "")
    )


def preparation(settings: shared.Settings) -> Mapping[str, SpectrogramSettings | FaceSettings]:
    """Each modality's preparation settings."""
    return {
        "acoustic": SpectrogramSettings.from_mapping(settings.of(SpectrogramSettings)),
        "visual": FaceSettings.from_mapping(settings.of(FaceSettings)),
    }


def _shared(arguments: argparse.Namespace, cluster: str | None) -> Path | None:
    """The folder that all nodes see. Alone, a machine needs none."""
    named = arguments.shared or os.environ.get("FDAN_SHARED")
    if cluster is None or not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"--shared {folder}: no such folder; all nodes have to see it")
    return folder


def _gpus(arguments: argparse.Namespace, cluster: str | None, say: Callable[[str], None]) -> float:
    """GPUs of a trial. On a cluster, this machine's own say nothing."""
    asked = arguments.gpus_per_trial
    wanted: float | None = None if asked == AUTO else asked
    if arguments.device == "cpu":
        if wanted:
            raise ConfigError(f"--gpus-per-trial {wanted:g} and --device cpu contradict each other")
        return 0.0
    if wanted is not None and (wanted == 0 or cluster is not None):
        return wanted
    if cluster is not None:
        from search.tune.autoscaler import cluster_has_gpu

        return 1.0 if arguments.device != "auto" or cluster_has_gpu(cluster, say) else 0.0
    # Here: this imports torch, which takes seconds.
    from fdan.device import choose_device

    device = choose_device("cuda" if wanted else arguments.device)
    return (wanted or 1.0) if device.type == "cuda" else 0.0


def _settings(plan: Plan) -> Table:
    table = Table(title="settings that all trials share", title_justify="left", box=None)
    for title in ("setting", "value", "from"):
        table.add_column(title)
    hidden = set(plan.space.names)
    for name, value in plan.settings.values.items():
        if name not in hidden:
            origin = plan.settings.source(name)
            style = "bold" if origin == "chosen" else ""
            table.add_row(name, "none" if value is None else shown(value), origin, style=style)
    return table


def _space(plan: Plan) -> Table:
    title = f"space {plan.arguments.space}: {plan.space.description}"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("searched")
    table.add_column("values")
    for point in range(len(plan.space.enqueue)):
        table.add_column(f"first {point + 1}", justify="right")
    for dimension in plan.space.dimensions:
        firsts = [point.get(dimension.name) for point in plan.space.enqueue]
        cells = ["" if value is None else shown(value) for value in firsts]
        table.add_row(dimension.name, str(dimension), *cells)
    return table


def _split(parts: list[PartCount]) -> Table:
    table = Table(title="split, samples", title_justify="left", box=None)
    table.add_column("part")
    for emotion in parts[0].emotions:
        table.add_column(emotion, justify="right")
    table.add_column("all", justify="right")
    table.add_column("speakers", justify="right")
    for part in parts:
        counts = [str(count) for count in part.emotions.values()]
        speakers = str(len(part.speakers)) if part.speakers else "unknown"
        table.add_row(part.part, *counts, Text(str(part.total), style="bold"), speakers)
    return table
