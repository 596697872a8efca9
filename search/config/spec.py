"""StudySpec: a study as it will be run, resolved before anything is started."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fdan.corpora import check_folder
from fdan.data.open_task import DataConfig
from fdan.data.settings import Settings, make_settings
from fdan.data.split import SplitConfig
from fdan.data.task import Task
from fdan.errors import ConfigError
from fdan.files import sha256_file
from fdan.run_config import RUN_CONFIGS, RunConfig
from search.config.nested import check_nested
from search.config.options import (
    AUTO,
    ConfirmConfig,
    ResourceConfig,
    SearchConfig,
    StudyConfig,
    normalize,
    to_arguments,
)
from search.config.resume_options import ONCE, absolute_places, remembered_options
from search.optimizer.samplers import make_sampler
from search.optimizer.space import Space
from search.optimizer.space_file import load_space
from search.study.identity import Identity
from search.worker.trial_folder import TRIALS
from tracking.uri import (
    TRACKING_URI_VARIABLE,
    absolute_uri,
    check_registry,
    check_uri,
    default_uri,
    mask_password,
    sqlite_file,
)

RAY_ADDRESS: Final = "RAY_ADDRESS"  # Ray's variable that names a cluster

_EXTENSION: Final = 20  # trials by which a message proposes to extend a study


@dataclass(frozen=True)
class TrialResources:
    """What one trial occupies of a machine or a cluster."""

    cpus: int = 1
    gpus: float = 0.0  # with a fraction, several trials share a GPU

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU{'s' * (self.cpus != 1)}"
        return f"{cpus}, {self.gpus:g} GPU" if self.gpus else cpus


@dataclass(frozen=True)
class StudySpec:
    """A resolved study. Paths are absolute: workers have other working folders."""

    study: StudyConfig
    confirm: ConfirmConfig
    search: SearchConfig
    resources: ResourceConfig
    data: DataConfig
    settings: Settings  # of preparation, split, model and training
    space: Space  # searched dimensions, without those that an option pins
    per_trial: TrialResources
    cluster: str | None  # address of the Ray cluster; None for a local Ray
    shared: Path | None  # folder that all nodes of the cluster see
    options: Mapping[str, Any]
    """Options given now or when the study was started: enough to make this spec again."""
    remembered: tuple[str, ...] = ()  # options of an earlier start among them, as a command line
    extra_tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of each of its runs in MLflow, beside those that every study has."""

    @classmethod
    def make(cls, **options: Any) -> StudySpec:
        """The study that these options describe.

        The names are those of the flags of `search/run.py` with underscores: `trials=3`,
        `epochs=4`, `study="mine"`, `task="savee:/data/SAVEE"`, `time_budget="2h"`. An option
        left out is taken from the existing study `study`, or has the flag's default. ConfigError
        or DataError where an option is unknown or a value is invalid.
        """
        given = normalize(options, "StudySpec")
        remembered = remembered_options(given)
        return resolve({**remembered, **given}, to_arguments(remembered))

    @property
    def runs(self) -> Path:
        """The folder of studies, stores and features."""
        return self.data.runs

    @property
    def trials(self) -> int:
        """Trials in all; a grid has no more than its combinations."""
        return int(min(self.study.trials, self._most_trials))

    @property
    def _most_trials(self) -> float:
        size = self.space.size() if self.search.sampler == "grid" else None
        return math.inf if size is None else size

    def how_to_extend(self, trials: int) -> str:
        """How a study that has so many trials can be given more, in words."""
        if trials >= self._most_trials:
            return "they are the whole grid"
        return f"--trials {min(trials + _EXTENSION, self._most_trials)} extends it"

    @property
    def lasting_options(self) -> dict[str, object]:
        """The options without those that hold for one start alone."""
        return {name: value for name, value in self.options.items() if name not in ONCE}

    def on_device(self, device: str) -> StudySpec:
        """The same study with a device that is decided, and remembered: tomorrow the cluster's GPU
        nodes may be there a minute later, or not."""
        return resolve({**self.options, "device": device}, self.remembered)

    def with_folds(self, folds: int | str) -> StudySpec:
        """The same study with folds that are decided (search/config/folds.py)."""
        values = {**self.settings.values, "folds": folds}
        return replace(self, settings=replace(self.settings, values=values))

    @property
    def cluster_named(self) -> str:
        """The cluster's address with what names it: an option or a variable."""
        return _named(self.resources.address, self.cluster)

    @property
    def device_is_open(self) -> bool:
        """Whether the cluster has to be asked if it has GPUs. Until then, the study is planned for
        CPUs."""
        device, gpus = self.resources.device, self.resources.gpus_per_trial
        return self.cluster is not None and device == "auto" and gpus in (None, AUTO)

    @property
    def gpu_share_is_open(self) -> bool:
        """Whether it is to be found out how many trials fit on a GPU; until then, each has one."""
        return self.per_trial.gpus > 0 and self.resources.gpus_per_trial == AUTO

    @property
    def epochs(self) -> int:
        return int(self.settings.values["epochs"])

    @property
    def seed(self) -> int:
        return int(self.settings.values["seed"])

    @property
    def fixed(self) -> dict[str, Any]:
        """RunConfig's settings that are not searched."""
        return {k: v for k, v in self.settings.run.items() if k not in self.space.names}

    @property
    def device(self) -> str:
        """In a worker, to which Ray shows only the GPUs of its trial."""
        return "cuda" if self.per_trial.gpus else "cpu"

    @property
    def tracking_uri(self) -> str:
        return self.study.tracking_uri or default_uri(self.runs)

    @property
    def arguments(self) -> list[str]:
        """The command line that asks for this study, without passwords."""
        return to_arguments(self.options)

    def outside(self, name: str) -> dict[str, str]:
        """What a study writes outside its runs folder, by option. A copy of the folder may share it
        with the original.

        Args:
            name: Name of the study.
        """
        checkpoints = self.runs / name / TRIALS
        servers = {"--storage": self.study.storage, "--tracking-uri": self.tracking_uri}
        found = {
            option: mask_password(uri)
            for option, uri in servers.items()
            if uri is not None
            and not ((file := sqlite_file(uri)) and file.is_relative_to(self.runs))
        }
        if checkpoints.is_symlink():
            found["--shared"] = str(checkpoints.readlink())
        return found

    def name(self, task: Task) -> str:
        """The study's name: given, or the task's in letters that suit a folder."""
        task_name = "demo" if self.settings.preset == "demo" else task.name.lower()
        name = re.sub(r"[^a-z0-9]+", "-", task_name).strip("-")
        return self.study.study or (name if self.study.nested is None else f"{name}-nested")

    def identity(self, data: str | None) -> Identity:
        """What all trials of the study share. data: the task's fingerprint; None where it is not
        known yet."""
        fixed = {k: v for k, v in self.fixed.items() if k != "seed"}
        weights = Path(fixed["weights"])
        if weights.is_file():  # identified by its content, not its path
            fixed["weights"] = f"sha256 {sha256_file(weights)}"
        split = SplitConfig.pick(self.settings.values)
        return Identity(self.space.as_dict(), data, split, fixed, self.seed)


def resolve(
    options: Mapping[str, Any],
    remembered: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> StudySpec:
    """Check everything that can be checked without reading data, and start nothing. FdanError where
    a value is invalid, or this machine has no such device.

    Args:
        options: Options that are given, with values of their types (`normalize`).
        remembered: Options that an earlier start gave, as a command line.
        environment: Variables that name the cluster, the shared folder and MLflow's server where no
            option does. The server becomes an option: a shell may be without it tomorrow.
    """
    options = dict(options)
    server, named_by = options.get("tracking_uri"), "--tracking-uri"
    if not server:
        server, named_by = environment.get(TRACKING_URI_VARIABLE), TRACKING_URI_VARIABLE
    if server:
        check_uri(server, named_by)
        options["tracking_uri"] = _absolute(server, named_by)
    if storage := options.get("storage"):
        options["storage"] = _absolute(storage, "--storage")
    study = StudyConfig(**StudyConfig.pick(options))
    search = SearchConfig(**SearchConfig.pick(options))
    resources = ResourceConfig(**ResourceConfig.pick(options))
    data = DataConfig(**DataConfig.pick(options))
    for source in data.sources:
        if source.path != data.demo_folder:  # which is generated
            check_folder(source)
    whole = load_space(search.space, RunConfig().as_dict())
    cluster = _cluster(resources.address, environment.get(RAY_ADDRESS))
    gpus = _gpus(resources, cluster)
    settings = make_settings(options, data.preset(gpu=gpus > 0))
    if resources.group > 1 and settings.run["tuning"] != "frozen":
        raise ConfigError(f"--group {resources.group}: only --tuning frozen trains trials as one")
    searched = _searched(whole, search, settings)
    make_sampler(search.sampler, searched, settings.values["seed"], 0)
    spec = StudySpec(
        study=study,
        confirm=ConfirmConfig(**ConfirmConfig.pick(options)),
        search=search,
        resources=resources,
        data=data,
        settings=settings,
        space=searched,
        per_trial=TrialResources(resources.cpus_per_trial, gpus),
        cluster=cluster,
        shared=_shared(resources.shared or environment.get("FDAN_SHARED"), cluster),
        options=absolute_places(options),
        remembered=tuple(remembered),
    )
    check_nested(study, spec.confirm, settings)
    if spec.confirm.promote:
        check_registry(spec.tracking_uri, environment)
    return spec


def _absolute(uri: str, named_by: str) -> str:
    """The URI of a database, the same file in any working folder. ConfigError: no folder for it."""
    absolute = absolute_uri(uri)
    file = sqlite_file(absolute)
    if file is not None and not file.parent.is_dir():
        raise ConfigError(f"{named_by} {mask_password(uri)}: there is no folder {file.parent}")
    return absolute


def _cluster(option: str | None, variable: str | None) -> str | None:
    """The address of the Ray cluster; None for a Ray of the search's own. ConfigError: it is none.

    Args:
        option: Value of `--address`, which wins.
        variable: Value of RAY_ADDRESS.
    """
    address = option or variable
    if not address or address == "local":
        return None
    shown = _named(option, address)
    remedy = "give --address auto on a node of the cluster, or HOST:PORT as `ray start` prints it"
    if not option:
        remedy += f", or unset {RAY_ADDRESS}"
    if address.startswith(("http://", "https://")):
        raise ConfigError(f"{shown} is where jobs are submitted, and no cluster's own: {remedy}")
    if address.startswith("ray://"):
        raise ConfigError(f"{shown} is for Ray's client, which cannot hold a study: {remedy}")
    host, _, port = address.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) < 65536
    if address != "auto" and not (host and "/" not in host and is_port):
        raise ConfigError(f"{shown} is no address: {remedy}")
    return address


def _named(option: str | None, address: str | None) -> str:
    return f"--address {option}" if option else f"{RAY_ADDRESS}={address}"


def _searched(whole: Space, search: SearchConfig, settings: Settings) -> Space:
    """The space without what is pinned; each of its settings can be."""
    known = RunConfig().as_dict()
    searched = whole.resolve(settings.run, settings.chosen & set(known))
    where = f"--space {search.space}"
    if not searched.dimensions:
        raise ConfigError(
            f"{where}: each of its dimensions is pinned by an option, so nothing is left to"
            " search; python -m fdan train runs one setting"
        )
    for dimension in searched.dimensions:
        for value in dimension.extremes:
            try:
                for config in RUN_CONFIGS:
                    config.check(dimension.name, value)
            except ConfigError as error:
                raise ConfigError(f"{where}: dimensions.{dimension.name}: {error}") from None
    for point in searched.enqueue:
        RunConfig.from_mapping({**settings.run, **point}, f"{where}: enqueue")
    return searched


def _shared(named: str | Path | None, cluster: str | None) -> Path | None:
    """The folder that all nodes see. Alone, a machine needs none."""
    if cluster is None or not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"--shared {folder}: no such folder; all nodes have to see it")
    return folder


def _gpus(resources: ResourceConfig, cluster: str | None) -> float:
    """GPUs of a trial. On a cluster, this machine's own say nothing."""
    wanted = resources.gpus_per_trial
    share = wanted if isinstance(wanted, float) else None
    if resources.device == "cpu" or share == 0:
        return 0.0
    if cluster is not None:
        return share or (0.0 if resources.device == "auto" else 1.0)
    # Here: this imports torch, which takes seconds.
    from fdan.device import choose_device

    device = choose_device("cuda" if share else resources.device)
    return (share or 1.0) if device.type == "cuda" else 0.0
