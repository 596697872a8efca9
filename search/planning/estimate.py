"""What a study would take here, from a few training steps that are timed now (`--estimate`)."""

import contextlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
import torch
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from fdan.data.folds import trained_splits
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS, MODALITIES
from fdan.errors import ConfigError
from fdan.machine.cpus import cpu_count
from fdan.media.pixels import image_shape
from fdan.run_config import RunConfig
from search.config.spec import StudySpec
from search.formatting import format_duration, format_value
from search.optimizer.pruners import make_pruner
from search.optimizer.space import Space, Value
from search.planning.step_timing import Timings, Workload, measure

_MAX_PROCESSES: Final = 4  # that time at once; more take longer to start and tell no more

# Seen on two cores:
_RAY_S: Final = 10.0  # until Ray is up and asks for the first trial
_END_S: Final = 10.0  # models, figures and the report after the last trial
_NEXT_TRIAL_S: Final = 1.0  # between two trials of one worker

_CHECKPOINTS: Final = 1.05
"""A trial spends at most a twentieth of its time on checkpoints (search/worker/trainable.py)."""

_SIMULATED_TRIALS: Final = 60
_SIMULATIONS: Final = 8
"""Studies, of at most so many trials, that are simulated for the pruner's share."""

_DEAREST: Final[Mapping[str, Callable[..., Value] | tuple[Value, ...]]] = {
    **dict.fromkeys(("layers", "ffn", "width", "kernels", "bank"), max),
    "batch": min,
    "context": ("bank",),
    "augment": (True,),
    "tuning": ("full", "last"),
}
"""With which value of a setting a step takes longest: the largest, the smallest, or the first of
these that is searched."""


@dataclass(frozen=True)
class Estimate:
    """Estimated duration of a study [s]."""

    spec: StudySpec
    concurrency: int | None  # trials at once; None for a cluster, which is not asked
    processes: int  # number of processes that were timed at once
    settings: tuple[Mapping[str, Value], ...]
    timings: Timings
    share: float  # the part of all epochs that the pruner leaves, 0 .. 1
    images: Mapping[str, int]  # number of images by modality
    folds: int = 1  # that a trial trains; each takes the time of the first one

    @property
    def at_most(self) -> float:
        """Duration of the search if nothing is pruned and all trials have the slowest setting."""
        return self._trials_s(self.spec.trials, max(self._epochs_s)) + _END_S

    @property
    def pruned(self) -> float:
        """The search, if the pruner leaves its share of epochs."""
        epoch_s = statistics.mean(self._epochs_s) * self.share
        return self._trials_s(self.spec.trials, epoch_s) + _END_S

    @property
    def confirming(self) -> float:
        """The runs that follow the search, if every setting gets all of its seeds."""
        runs = self.spec.confirm.runs
        return self._trials_s(runs, statistics.mean(self._epochs_s)) if runs else 0.0

    @property
    def features(self) -> float:
        """What frozen stages compute, once before the first trial."""
        return sum(self.images[m] * seconds for m, seconds in self.timings.features.items())

    def print_to(self, console: Console) -> None:
        """Print what was timed and what follows from it."""
        spec, each = self.spec, self.spec.per_trial
        threads = f"{each.cpus} thread{'s' * (each.cpus != 1)} each"
        device = f" and {each.gpus:g} GPU" if each.gpus else ""
        console.print(
            f"\nestimate: steps timed here, {self.processes} at once, {threads}{device}, on random"
            " data of the listed sizes",
            soft_wrap=True,
        )
        console.print(self._table())
        cluster = " (a cluster's --concurrent is not known: divide by it)"
        at_once = f"{self.concurrency or 1} at once{'' if self.concurrency else cluster}"
        pruned = "in all likelihood: nothing is pruned"
        if self.share < 1:
            pruned = (
                f"with {spec.search.pruner}: it leaves about {self.share:.0%} of the epochs"
                " (simulated with level curves in random order; if trials get better as the"
                " search learns, fewer are pruned)"
            )
        folds = f" of {self.folds} folds" if self.folds > 1 else ""
        lines = [
            f"{spec.trials} trials of {spec.epochs} epochs{folds}, {at_once}:",
            f"at most about {self._format(self.at_most)}: nothing pruned, all the dearest",
            f"about {self._format(self.pruned)} {pruned}",
        ]
        if runs := spec.confirm.runs:
            confirming = format_duration(self.confirming)
            lines.append(f"confirming: at most {runs} whole trials more, about {confirming}")
        if self.features:
            last = spec.settings.run["tuning"] == "last"
            what = "maps before the last stage" if last else "frozen features"
            features = format_duration(self.features)
            lines.append(f"before the first trial, once: {what}, about {features}")
        lines.append("not included: preparing the data, and other load on this machine")
        for line in lines:
            console.print(f"  {line}", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table("setting", box=None)
        for title in ("a step", "steps", "validation", "an epoch"):
            table.add_column(title, justify="right")
        titles = ("first known good", "dearest corner")
        for title, params, timing in zip(titles, self.settings, self.timings.runs, strict=False):
            values = ", ".join(
                f"{name} {format_value(params[name])}"
                for name, dearest in _DEAREST.items()
                if callable(dearest) and name in self.spec.space.names and name in params
            )
            epoch = timing.epoch
            table.add_row(
                f"{title} ({values})" if values else title,
                f"{timing.step * 1000:.1f} ms",
                str(timing.steps),
                f"{timing.validation * 1000:.1f} ms",
                f"{epoch:.2f} s" if epoch < 60 else format_duration(epoch),
            )
        return table

    def _format(self, seconds: float) -> str:
        """Seconds on the clock, and the hours of all CPUs or GPUs together."""
        each = self.spec.per_trial
        hours = (self.concurrency or 1) * (each.gpus or each.cpus) * seconds / 3600
        return f"{format_duration(seconds)} ({hours:.2g} {'GPU' if each.gpus else 'CPU'}-hours)"

    @property
    def _epochs_s(self) -> list[float]:
        return [timing.epoch * _CHECKPOINTS * self.folds for timing in self.timings.runs]

    def _trials_s(self, trials: int, epoch_s: float) -> float:
        trial_s = self.spec.epochs * epoch_s + _NEXT_TRIAL_S
        at_once = min(trials, self.concurrency or 1)
        return _RAY_S + self.timings.start + trials / at_once * trial_s


def estimate_study(spec: StudySpec, task: Task) -> Estimate:
    """Time a few training steps and estimate from them how long the study takes. FdanError where
    its trials cannot be trained here.

    Args:
        spec: The study.
        task: Data of the study, of which only the listing is used.
    """
    gpus = torch.cuda.device_count() if spec.per_trial.gpus else 0
    if spec.per_trial.gpus and not gpus:
        raise ConfigError(
            "--estimate: trials on GPUs are timed on one, and this machine has none; run it on a"
            " node that has"
        )
    concurrency = _concurrency(spec, gpus)
    processes = min(concurrency or 1, _MAX_PROCESSES)
    splits = trained_splits(task, spec.settings.split)
    workload = make_workload(spec, task, splits[0])
    timings = measure(workload, processes)
    share = _pruner_share(spec.search.pruner, spec.epochs, spec.trials, spec.name(task))
    images = {m: len(task.samples(m)) for m in MODALITIES}
    runs, folds = workload.runs, len(splits)
    return Estimate(spec, concurrency, processes, runs, timings, share, images, folds)


def make_workload(spec: StudySpec, task: Task, split: Split) -> Workload:
    """What has to be timed: the first setting that is tried, then the dearest one of the space
    where it is another.

    Args:
        spec: The study.
        task: Data of the study, of which only the sizes are used.
        split: Split of the data.
    """
    shapes = {}
    for modality in MODALITIES:
        height, width, channels = task.stores(modality)[0].images.shape[1:]
        # A store that has not been prepared yet has no height.
        preparation = spec.settings.preparation[modality]
        shapes[modality] = (height, width, channels) if height else image_shape(preparation)
    return Workload(
        runs=tuple({**spec.fixed, **params} for params in _corners(spec)),
        shapes=shapes,
        sizes=(len(split.visual_train), len(split.acoustic_train), len(split.acoustic_validation)),
        classes=tuple(EMOTIONS.index(emotion) for emotion in task.emotions("acoustic")),
        device=spec.device,
        threads=spec.per_trial.cpus,
        gpus=spec.per_trial.gpus,
    )


def _corners(spec: StudySpec) -> tuple[dict[str, Value], ...]:
    """The settings that are timed, searched dimensions alone."""
    first = _first_setting(spec.space, spec.settings.run)
    dearest = _dearest_setting(spec.space, first)
    with contextlib.suppress(ConfigError):  # each value is allowed, all together are not
        RunConfig.from_mapping({**spec.fixed, **dearest})
        if dearest != first:
            return first, dearest
    return (first,)


def _concurrency(spec: StudySpec, gpus: int) -> int | None:
    """Trials at once on this machine with so many GPUs; None on a cluster without
    `--concurrent`."""
    requested = spec.resources.concurrent
    if requested is None and spec.cluster is not None:
        return None
    fitting = requested or cpu_count() // spec.per_trial.cpus
    if share := spec.per_trial.gpus:
        per_gpu = int(1 / share + 1e-9) if share <= 1 else 1 / share
        fitting = min(fitting, int(gpus * per_gpu))
    return max(1, min(fitting, spec.trials))


def _first_setting(space: Space, settings: Mapping[str, Value]) -> dict[str, Value]:
    """The first setting that is tried; where a space enqueues none, as in `settings`."""
    values = {**settings, **(space.enqueue[0] if space.enqueue else {})}
    params: dict[str, Value] = {}
    for dimension in space.dimensions:
        if dimension.active(params):
            value = values.get(dimension.name)
            first = value if dimension.contains(value) else dimension.extremes[0]
            params[dimension.name] = first
    return params


def _dearest_setting(space: Space, first: Mapping[str, Value]) -> dict[str, Value]:
    """The values with which steps take longest; where they take as long with any, as in `first`."""
    params: dict[str, Value] = {}
    for dimension in space.dimensions:
        if dimension.active(params):
            name, dearest = dimension.name, _DEAREST.get(dimension.name, ())
            if callable(dearest):
                numbers = (v for v in dimension.extremes if isinstance(v, int | float))
                dearest = (dearest(numbers),)
            usual = first.get(name, dimension.extremes[0])
            params[name] = next((v for v in dearest if dimension.contains(v)), usual)
    return params


def _pruner_share(pruner: str, epochs: int, trials: int, study: str) -> float:
    """The part of all epochs that a pruner leaves, 0 .. 1: Optuna's own pruner runs in simulated
    studies, each of whose trials has a level curve at a random height.

    Such curves never cross, and later trials are no better than earlier ones. Real ones do cross,
    and a sampler that learns has more of its later trials go on.
    """
    if pruner == "none":
        return 1.0
    count, done = min(trials, _SIMULATED_TRIALS), 0
    for seed in range(_SIMULATIONS):
        # The name decides which trials share a bracket of hyperband's.
        simulated = optuna.create_study(
            study_name=study,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=seed),
            pruner=make_pruner(pruner, epochs),
        )
        for height in np.random.default_rng(seed).random(count):
            trial = simulated.ask()
            for epoch in range(1, epochs + 1):
                done += 1
                trial.report(float(height), epoch)
                if epoch < epochs and trial.should_prune():
                    simulated.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                simulated.tell(trial, float(height))
    return done / (_SIMULATIONS * count * epochs)
