"""Confirms the best settings of a search: they run again with fresh seeds, and the best mean wins.

The best of many noisy trials is partly lucky in its seed, so the search only nominates. The
confirming runs are trials of a second Optuna study beside the first, without a pruner. They share
the search's controller, checkpoints and tracking, so they survive whatever it survives.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from fdan.evaluation.statistics import Interval, mean_interval
from search.optimizer.space import Value
from search.study.status import complete_trials
from search.study.writer import create_study, requeue, set_attributes
from tracking.result import Confirmation, ConfirmedSetting
from tracking.tags import CONFIRM, CONFIRMS

FOLDER: Final = "confirm"  # in a study's folder: the confirming runs' own trials/NNNN

_OF, _SEED = "of", "seed"
"""A run's user attributes: the search's trial whose settings it has, and its seed."""

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
    """Assigns a setting and seed to each new run: all settings with one seed, then the next."""

    def __init__(
        self, confirming: optuna.Study, nominated: Sequence[FrozenTrial], seeds: Sequence[int]
    ) -> None:
        self._confirming = confirming
        self._params = {trial.number: dict(trial.params) for trial in nominated}
        wanted = [(trial.number, seed) for seed in seeds for trial in nominated]
        begun = {_pair(run) for run in confirming.get_trials(deepcopy=False)}
        self._waiting = [pair for pair in wanted if pair not in begun]
        under_way = confirming.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        bare = [run for run in under_way if _pair(run) is None]
        for run in bare[len(self._waiting) :]:  # an earlier start wanted more: queue it again
            requeue(confirming, run.number)
        self.left = max(0, len(self._waiting) - len(bare))
        """Number of runs to create, beside those that a driver created without a setting."""

    def tags(self, run: int) -> dict[str, int]:
        """Tags of a run in MLflow: the trial that it confirms."""
        return {CONFIRMS: self._confirming.get_trials(deepcopy=False)[run].user_attrs[_OF]}

    def suggest(self, run: optuna.Trial) -> dict[str, Value]:
        """The run's settings, seed included; the same ones when called again."""
        if _SEED not in run.user_attrs:
            trial, seed = self._waiting[0]
            # The seed comes last: a run with a seed is complete.
            set_attributes(run, {"params": self._params[trial], _OF: trial, _SEED: seed})
        # The storage may hold the seed although its answer was lost: return what it holds.
        if (pair := _pair(run)) in self._waiting:
            self._waiting.remove(pair)
        return run_params(run)


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
    """The confirmed settings, best mean first; settings that failed with a seed, or have fewer
    seeds than others, come last and cannot win."""
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

    def rank(setting: Setting) -> tuple[bool, float, int]:
        mean = setting.interval.value if setting.values else -math.inf
        return not _eligible(setting, settings), -mean, setting.trial

    return sorted(settings, key=rank)


def _eligible(setting: Setting, settings: Sequence[Setting]) -> bool:
    """Whether a setting may win: it is complete with as many seeds as any other has."""
    most = max(len(other.values) + len(other.failed) for other in settings)
    return not setting.failed and len(setting.values) == most


def winning_setting(settings: Sequence[Setting]) -> Setting | None:
    """The setting of the best mean; None where none is complete with all seeds."""
    return settings[0] if settings and _eligible(settings[0], settings) else None


def confirmation(settings: Sequence[Setting]) -> Confirmation | None:
    """The confirmation for the study's result; None where nothing was confirmed."""
    winner = winning_setting(settings)
    if winner is None:
        return None
    run = winner.median_run
    return Confirmation(
        seeds=winner.seeds,
        settings=tuple(
            ConfirmedSetting(
                trial=setting.trial,
                params=setting.params,
                search_value=setting.search_value,
                values=setting.values,
                mean=setting.interval.value,
                low=setting.interval.low if len(setting.values) > 1 else None,
                high=setting.interval.high if len(setting.values) > 1 else None,
                optimism=setting.optimism,
            )
            for setting in settings
            if setting.values
        ),
        winner=winner.trial,
        run=run,
        seed=winner.seeds[winner.runs.index(run)],
    )


def _pair(run: FrozenTrial | optuna.Trial) -> tuple[int, int] | None:
    attrs = run.user_attrs
    return (attrs[_OF], attrs[_SEED]) if _SEED in attrs else None
