"""Confirms the best settings of a search: they run again with fresh seeds, and the best mean wins.

The best of many noisy trials is partly lucky in its seed, so the search only nominates. The
confirming runs are trials of a second Optuna study beside the first, without a pruner. They share
the search's controller, checkpoints and tracking, so they survive whatever it survives.

Which seeds a setting gets is decided while they run (search/selection/race.py): those that cannot
win any more get none. So settings differ in their number of seeds, and the winner has the most.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from fdan.evaluation.statistics import Interval, mean_interval
from search.optimizer.space import Value
from search.selection.race import Pair, Race, race
from search.study.status import complete_trials
from search.study.storage_retry import retry_call
from search.study.writer import create_study, requeue, set_attributes
from tracking.result import (
    BUDGET,
    SEPARATED,
    UNFINISHED,
    Behind,
    Confirmation,
    ConfirmedSetting,
)
from tracking.tags import CONFIRM, CONFIRMS

FOLDER: Final = "confirm"  # in a study's folder: the confirming runs' own trials/NNNN

_OF, _SEED = "of", "seed"
"""A run's user attributes: the search's trial whose settings it has, and its seed."""

_NOMINATED, _SEEDS = "nominated", "seeds"
"""User attributes of the second study: the trials whose settings are confirmed, the best of the
search first, and the seeds of each, at most. Earlier studies have neither."""

FIRST_SEED: Final = 1000
"""Added to the study's seed: far from what anybody gives as --seed, so that no run repeats the
trial that it confirms."""


@dataclass(frozen=True)
class Setting:
    """A setting that was confirmed."""

    trial: int
    params: dict[str, Value]
    search_value: float  # of one seed
    seeds: tuple[int, ...]
    values: tuple[float, ...]  # one for each of the seeds
    runs: tuple[int, ...]  # numbers of their confirming runs
    failed: tuple[int, ...]  # seeds without a value

    @property
    def interval(self) -> Interval:
        """Mean over the seeds with its 95 % interval."""
        return mean_interval(self.values)

    @property
    def optimism(self) -> float:
        """Excess of the search's value over the mean over fresh seeds."""
        return self.search_value - self.interval.value

    @property
    def median_run(self) -> int:
        """The run of the median value (the lower one of two). Its model is what the mean promises;
        the best run's would again be partly luck."""
        order = sorted(range(len(self.values)), key=lambda i: (self.values[i], -i))
        return self.runs[order[(len(order) - 1) // 2]]


def confirmation_name(search: str) -> str:
    """Name of the second study, beside the search's. No user can give a study such a name."""
    return f"{search}/{CONFIRM}"


def open_confirmation(search: optuna.Study) -> optuna.Study:
    """Make or open the second study, in the same storage."""
    return create_study(
        search._storage,
        study_name=confirmation_name(search.study_name),
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )


def nominate(search: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, one for each setting, the best first."""
    nominated: list[FrozenTrial] = []
    for trial in complete_trials(search):
        if all(trial.params != other.params for other in nominated):
            nominated.append(trial)
    return nominated


class ConfirmationQueue:
    """Assigns a setting and seed to each new run, by the race of the settings."""

    def __init__(
        self, confirming: optuna.Study, nominated: Sequence[FrozenTrial], seeds: Sequence[int]
    ) -> None:
        self._confirming = confirming
        self._params = {trial.number: dict(trial.params) for trial in nominated}
        self._seeds = tuple(seeds)
        plan = {_NOMINATED: [*self._params], _SEEDS: [*seeds]}
        if any(confirming.user_attrs.get(name) != value for name, value in plan.items()):
            set_attributes(confirming, plan)
        bare = _bare(confirming)
        for run in bare[len(self._waiting()) :]:  # an earlier start wanted more: queue it again
            requeue(confirming, run.number)

    @property
    def left(self) -> int:
        """Number of runs to create, as far as the finished ones say, beside those that a driver
        created without a setting. Each run that ends may change it."""

        def count() -> int:
            return max(0, len(self._waiting()) - len(_bare(self._confirming)))

        return retry_call(self._confirming._storage, count)

    def tags(self, run: int) -> dict[str, int]:
        """Tags of a run in MLflow: the trial that it confirms."""
        return {CONFIRMS: self._confirming.get_trials(deepcopy=False)[run].user_attrs[_OF]}

    def suggest(self, run: optuna.Trial) -> dict[str, Value]:
        """The run's settings, seed included; the same ones when called again."""
        if _SEED not in run.user_attrs:
            trial, seed = self._next()
            # The seed comes last: a run with a seed is complete.
            set_attributes(run, {"params": self._params[trial], _OF: trial, _SEED: seed})
        return run_params(run)

    def _next(self) -> Pair:
        if waiting := self._waiting():
            return waiting[0]
        # The race was decided after this run had been created.
        begun = _begun(self._confirming)
        pairs = ((trial, seed) for seed in self._seeds for trial in self._params)
        return next(pair for pair in pairs if pair not in begun)

    def _waiting(self) -> list[Pair]:
        """Runs that are wanted and not begun."""
        begun = _begun(self._confirming)
        return [pair for pair in _race(self._confirming).wanted if pair not in begun]


def _begun(confirming: optuna.Study) -> set[Pair | None]:
    return {_pair(run) for run in confirming.get_trials(deepcopy=False)}


def _bare(confirming: optuna.Study) -> list[FrozenTrial]:
    """Runs that were created and given no setting."""
    running = confirming.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [run for run in running if _pair(run) is None]


def _finished(confirming: optuna.Study) -> dict[Pair, float | None]:
    """Values of finished runs; None where a run failed."""
    runs = confirming.get_trials(deepcopy=False)
    pairs = ((_pair(run), run.value) for run in runs if run.state.is_finished())
    return {pair: value for pair, value in pairs if pair is not None}


def _plan(confirming: optuna.Study) -> tuple[list[int], list[int]]:
    """The settings that are confirmed and their seeds; of an earlier study, those of its runs."""
    attrs = confirming.user_attrs
    if _SEEDS in attrs:
        return attrs[_NOMINATED], attrs[_SEEDS]
    pairs = [pair for pair in _begun(confirming) if pair is not None]
    return sorted({trial for trial, _ in pairs}), sorted({seed for _, seed in pairs})


def _race(confirming: optuna.Study) -> Race:
    """Where the race of the settings stands. Settings of an earlier nomination are in it with the
    seeds that they have."""
    (nominated, seeds), values = _plan(confirming), _finished(confirming)
    retired = sorted({trial for trial, _ in values} - {*nominated})
    return race([*nominated, *retired], seeds, values, retired)


def confirming_runs(search: optuna.Study) -> list[FrozenTrial]:
    """All confirming runs of a study."""
    storage = search._storage
    if confirmation_name(search.study_name) not in optuna.get_all_study_names(storage):
        return []
    return open_confirmation(search).get_trials(deepcopy=False)


def run_params(run: FrozenTrial | optuna.Trial) -> dict[str, Value]:
    """A run's settings, seed included; empty for a run that has none yet."""
    attrs = run.user_attrs
    return {**attrs["params"], _SEED: attrs[_SEED]} if _SEED in attrs else {}


def confirmed_settings(search: optuna.Study) -> list[Setting]:
    """The confirmed settings. Those with the most seeds come first, the best mean first. Settings
    that failed with a seed, or have fewer seeds than others, come after them and cannot win: a mean
    of few seeds is high by luck more easily."""
    runs: dict[int, list[FrozenTrial]] = defaultdict(list)
    for run in confirming_runs(search):
        if run.state.is_finished() and _OF in run.user_attrs:
            runs[run.user_attrs[_OF]].append(run)
    trials = search.get_trials(deepcopy=False)
    settings = []
    for number, confirming in runs.items():
        confirming.sort(key=lambda run: run.user_attrs[_SEED])
        whole = [(run, run.value) for run in confirming if run.value is not None]
        value = trials[number].value
        assert value is not None, "only complete trials are nominated"
        settings.append(
            Setting(
                trial=number,
                params=dict(trials[number].params),
                search_value=value,
                seeds=tuple(run.user_attrs[_SEED] for run, _ in whole),
                values=tuple(value for _, value in whole),
                runs=tuple(run.number for run, _ in whole),
                failed=tuple(run.user_attrs[_SEED] for run in confirming if run.value is None),
            )
        )

    def rank(setting: Setting) -> tuple[bool, bool, int, float, int]:
        mean = setting.interval.value if setting.values else -math.inf
        last = not _eligible(setting, settings), bool(setting.failed)
        return *last, -len(setting.values), -mean, setting.trial

    return sorted(settings, key=rank)


def _eligible(setting: Setting, settings: Sequence[Setting]) -> bool:
    """Whether a setting may win: it is complete with as many seeds as any other has."""
    most = max(len(other.values) + len(other.failed) for other in settings)
    return not setting.failed and len(setting.values) == most


def winning_setting(settings: Sequence[Setting]) -> Setting | None:
    """The setting of the best mean; None where none is complete with all seeds."""
    return settings[0] if settings and _eligible(settings[0], settings) else None


def seed_noise(groups: Iterable[Sequence[float]]) -> float | None:
    """Standard deviation of a value over seeds, pooled over settings; None where no setting has two
    values. groups: each setting's values."""
    several = [values for values in groups if len(values) > 1]
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    free = sum(len(values) - 1 for values in several)
    return math.sqrt(squares / free) if free else None


def confirmation(search: optuna.Study, settings: Sequence[Setting]) -> Confirmation | None:
    """The confirmation for the study's result; None where nothing was confirmed.

    Args:
        search: The search's study.
        settings: Its confirmed settings, the winner first.
    """
    winner = winning_setting(settings)
    if winner is None:
        return None
    run, confirming = winner.median_run, open_confirmation(search)
    (nominated, seeds), now = _plan(confirming), _race(confirming)
    separated = now.separated and now.leaders == (winner.trial,)
    return Confirmation(
        seeds=winner.seeds,
        settings=tuple(
            _confirmed_setting(setting, winner) for setting in settings if setting.values
        ),
        winner=winner.trial,
        run=run,
        seed=winner.seeds[winner.runs.index(run)],
        ended=UNFINISHED if now.wanted else SEPARATED if separated else BUDGET,
        runs=sum(t in nominated and seed in seeds for t, seed in _finished(confirming)),
        budget=len(nominated) * len(seeds),
        seeds_each=len(seeds),
        noise=seed_noise(setting.values for setting in settings),
    )


def _confirmed_setting(setting: Setting, winner: Setting) -> ConfirmedSetting:
    mean, several = setting.interval, len(setting.values) > 1
    values = dict(zip(setting.seeds, setting.values, strict=True))
    best = dict(zip(winner.seeds, winner.values, strict=True))
    differences = [best[seed] - values[seed] for seed in best if seed in values]
    behind = None
    if setting.trial != winner.trial and len(differences) > 1:
        behind = mean_interval(differences)
    return ConfirmedSetting(
        trial=setting.trial,
        params=setting.params,
        search_value=setting.search_value,
        values=setting.values,
        mean=mean.value,
        low=mean.low if several else None,
        high=mean.high if several else None,
        optimism=setting.optimism,
        behind=None if behind is None else Behind(behind.value, behind.low, behind.high),
    )


def _pair(run: FrozenTrial | optuna.Trial) -> Pair | None:
    attrs = run.user_attrs
    return (attrs[_OF], attrs[_SEED]) if _SEED in attrs else None
