"""What a study would take here, from a few training steps that are timed now (`--estimate`)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from fdan.cpus import cpu_count
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS, MODALITIES
from fdan.errors import ConfigError
from fdan.media.pixels import image_shape
from fdan.run_config import RunConfig
from search.config.spec import StudySpec
from search.formatting import format_duration, format_value
from search.optimizer.pruners import make_pruner
from search.optimizer.space import Dimension, Space, Value
from search.planning import step_timing as timing
from search.planning.step_timing import Measured, measure

_MOST_PROCESSES: Final = 4
"""Processes that time at once; more would take longer to start than they tell."""

_RAY_S: Final = 10.0
"""Until Ray is up and asks for the first trial, seen on two cores."""

_END_S: Final = 10.0
"""Models, figures and the report after the last trial, seen on two cores."""

_HAND_OVER_S: Final = 1.0
"""Between two trials of one worker, seen on two cores."""

_SAVED: Final = 1.05
"""A trial spends no more than a twentieth of its time on checkpoints (search.worker.trainable)."""

_PLAYED_TRIALS: Final = 60
_PLAYED: Final = 8
"""Studies of at most so many trials that are played through for the pruner's share."""

_DEAR_HIGH: Final = ("layers", "ffn", "width", "kernels", "bank")
_DEAR_LOW: Final = ("batch",)
_DEAR_CHOICES: Final[dict[str, Value]] = {"context": "bank", "augment": True, "tuning": "full"}
"""What makes a step dear: more of these, less of those, and these."""


@dataclass(frozen=True)
class Estimate:
    """Seconds, for `at_once` trials at a time.

    at_most: nothing pruned, all trials the dearest; pruned: the pruner leaves `share` of the
    epochs; confirming: what runs again afterwards, within neither; features: frozen features,
    computed once before the first trial, within neither.
    """

    at_once: int
    known: bool
    """Whether it is known how many fit; a cluster says so only when it is reached."""
    processes: int
    settings: tuple[Mapping[str, Value], ...]
    measured: Measured
    share: float
    at_most: float
    pruned: float
    confirming: float
    features: float


def at_once(spec: StudySpec, gpus: int) -> int | None:
    """Trials at once on this machine with so many GPUs; None on a cluster, unless it is said."""
    wanted: int | None = spec.resources.concurrent
    if wanted is None and spec.cluster is not None:
        return None
    room = wanted or cpu_count() // spec.per_trial.cpus
    if spec.per_trial.gpus:
        share = spec.per_trial.gpus
        per_gpu = int(1 / share + 1e-9) if share <= 1 else 1 / share
        room = min(room, int(gpus * per_gpu))
    return max(1, min(room, spec.trials))


def first(space: Space, settings: Mapping[str, Value]) -> dict[str, Value]:
    """The first setting that is tried; where a space names none, as the settings are without a
    search."""
    point = space.enqueue[0] if space.enqueue else {}
    params: dict[str, Value] = {}
    for dimension in space.dimensions:
        if dimension.active(params):
            usual = settings.get(dimension.name)
            fallback = usual if dimension.contains(usual) else dimension.extremes[0]
            params[dimension.name] = point.get(dimension.name, fallback)
    return params


def dearest(space: Space, start: Mapping[str, Value]) -> dict[str, Value]:
    """The corner of the space whose steps take longest; what costs nothing is as in `start`."""
    params: dict[str, Value] = {}
    for dimension in space.dimensions:
        if dimension.active(params):
            params[dimension.name] = _dear(dimension, start)
    return params


def _dear(dimension: Dimension, start: Mapping[str, Value]) -> Value:
    name, usual = dimension.name, start.get(dimension.name, dimension.extremes[0])
    numbers = [one for one in dimension.extremes if isinstance(one, int | float)]
    if name in _DEAR_HIGH and numbers:
        return max(numbers)
    if name in _DEAR_LOW and numbers:
        return min(numbers)
    if name in _DEAR_CHOICES and dimension.contains(_DEAR_CHOICES[name]):
        return _DEAR_CHOICES[name]
    return usual


def share(pruner: str, epochs: int, trials: int, study: str) -> float:
    """The part of all epochs that a pruner leaves, 0 .. 1: studies are played through with Optuna's
    own pruner, each trial's curve a level one at random height.

    Such curves never cross, and later trials are no better than earlier ones. Real ones do cross,
    and a sampler that learns has more of its later trials go on.
    """
    if pruner == "none":
        return 1.0
    count, done = min(trials, _PLAYED_TRIALS), 0
    for seed in range(_PLAYED):
        # The name decides which trials share a bracket of hyperband's.
        played = optuna.create_study(
            study_name=study,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=seed),
            pruner=make_pruner(pruner, epochs),
        )
        for height in np.random.default_rng(seed).random(count):
            trial = played.ask()
            for epoch in range(1, epochs + 1):
                done += 1
                trial.report(float(height), epoch)
                if epoch < epochs and trial.should_prune():
                    played.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                played.tell(trial, float(height))
    return done / (_PLAYED * count * epochs)


def estimate(spec: StudySpec, task: Task, parts: Split) -> Estimate:
    """Time the steps and reckon. task: as listed, nothing of it is read."""
    gpus = 0
    if spec.per_trial.gpus:
        import torch

        gpus = torch.cuda.device_count()
        if not gpus:
            raise ConfigError(
                "--estimate: trials on GPUs are timed on one, and this machine has none; run it on"
                " a node that has"
            )
    known = at_once(spec, gpus)
    processes = min(known or 1, _MOST_PROCESSES)
    settings = corners(spec)
    runs = tuple({**spec.fixed, **params} for params in settings)
    measured = measure(work(spec, task, parts, runs), processes)
    images = {m: len(task.samples(m)) for m in MODALITIES}
    left = share(spec.search.pruner, spec.epochs, spec.trials, spec.name(task))
    return reckon(spec, known, processes, settings, measured, left, images)


def work(
    spec: StudySpec, task: Task, parts: Split, runs: tuple[Mapping[str, Value], ...]
) -> timing.Work:
    """What it takes to train these settings on random data of the task's sizes."""
    return timing.Work(
        runs=runs,
        shapes={m: _shape(spec, task, m) for m in MODALITIES},
        sizes=(
            len(parts.visual_train),
            len(parts.acoustic_train),
            len(parts.acoustic_validation),
        ),
        classes=tuple(EMOTIONS.index(emotion) for emotion in task.emotions("acoustic")),
        device=spec.device,
        threads=spec.per_trial.cpus,
        gpus=spec.per_trial.gpus,
    )


def reckon(
    spec: StudySpec,
    known: int | None,
    processes: int,
    settings: tuple[Mapping[str, Value], ...],
    measured: Measured,
    left: float,
    images: Mapping[str, int],
) -> Estimate:
    """What the study takes by these measures. known: trials at once; left: the pruner's share;
    images: of each modality."""
    trials_at_once = known or 1
    epochs = [timed.epoch * _SAVED for timed in measured.timings]
    usual = statistics.mean(epochs)
    start = _RAY_S + measured.start
    around = start + _END_S

    def whole(trials: int, of_epochs: float) -> float:
        return trials / min(trials, trials_at_once) * (of_epochs + _HAND_OVER_S)

    again = spec.confirm.count * spec.confirm.seeds
    return Estimate(
        trials_at_once,
        known is not None,
        processes,
        settings,
        measured,
        left,
        at_most=around + whole(spec.trials, spec.epochs * max(epochs)),
        pruned=around + whole(spec.trials, spec.epochs * usual * left),
        confirming=start + whole(again, spec.epochs * usual) if again else 0.0,
        features=sum(images[m] * each for m, each in measured.features.items()),
    )


def _shape(spec: StudySpec, task: Task, modality: str) -> tuple[int, int, int]:
    """Of its images: a store that is named has them, those still to be made are known."""
    height, width, channels = task.stores(modality)[0].images.shape[1:]
    if height:
        return height, width, channels
    return image_shape(spec.settings.preparation[modality])


def corners(spec: StudySpec) -> tuple[Mapping[str, Value], ...]:
    """The first setting, and the dearest one where it is another."""
    usual = first(spec.space, spec.settings.run)
    dear = dearest(spec.space, usual)
    try:
        RunConfig.from_mapping({**spec.fixed, **dear})
    except ConfigError:  # each value is allowed, all together are not
        return (usual,)
    return (usual,) if dear == usual else (usual, dear)


def show(found: Estimate, spec: StudySpec, console: Console) -> None:
    """Below --dry-run's spec."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    threads = f"{spec.per_trial.cpus} thread{'s' * (spec.per_trial.cpus != 1)} each"
    device = f" and {spec.per_trial.gpus:g} GPU" if spec.per_trial.gpus else ""
    say(
        f"\nestimate: steps timed here, {found.processes} at once, {threads}{device}, on random"
        " data of the listed sizes"
    )
    table = Table(box=None)
    for title in ("setting", "a step", "steps", "validation", "an epoch"):
        table.add_column(title, justify="left" if title == "setting" else "right")
    names = ("first known good", "dearest corner")
    for name, params, timed in zip(names, found.settings, found.measured.timings, strict=False):
        dear = {
            key: format_value(params[key]) for key in (*_DEAR_HIGH, *_DEAR_LOW) if key in params
        }
        words = ", ".join(f"{key} {value}" for key, value in dear.items())
        table.add_row(
            f"{name}{f' ({words})' if words else ''}",
            f"{timed.step * 1000:.1f} ms",
            str(timed.steps),
            f"{timed.validation * 1000:.1f} ms",
            _short(timed.epoch),
        )
    console.print(table)
    cluster = "" if found.known else " (a cluster's --concurrent is not known: divide by it)"
    count = f"{spec.trials} trials of {spec.epochs} epochs, {found.at_once} at once{cluster}"
    say(f"  {count}:")
    say(f"  at most about {_time(found, spec, found.at_most)}: nothing pruned, all the dearest")
    if found.share < 1:
        say(
            f"  with {spec.search.pruner} about {_time(found, spec, found.pruned)}: it leaves"
            f" about {found.share:.0%} of the epochs (played through with level curves in random"
            " order; trials that get better as the search learns are pruned less)"
        )
    else:
        say(f"  about {_time(found, spec, found.pruned)} in all likelihood: nothing is pruned")
    if found.confirming:
        runs = spec.confirm.count * spec.confirm.seeds
        say(f"  confirming: {runs} whole trials more, about {format_duration(found.confirming)}")
    if found.features:
        time = format_duration(found.features)
        say(f"  before the first trial, once: frozen features, about {time}")
    say("  not in it: preparing the data, and whatever else this machine will be doing then")


def _time(found: Estimate, spec: StudySpec, seconds: float) -> str:
    """Of the clock, and of the processors where they are more than one."""
    units = found.at_once * (spec.per_trial.gpus or spec.per_trial.cpus)
    what = "GPU" if spec.per_trial.gpus else "CPU"
    return f"{format_duration(seconds)} ({units * seconds / 3600:.2g} {what}-hours)"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 60 else format_duration(seconds)
