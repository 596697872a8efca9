"""From a finished study to the champion.

The order of writing is such that a kill at any moment leaves no half-made champion: a version is
registered as a candidate, its files are read back, the champion is checked to be the one it was
compared with, `previous` is set to that, which is true already, and one call moves `champion`. What
is written afterwards is an account of it, and the next promotion completes that. Candidates that a
killed promotion left are used again or removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from tracking.backend import limits
from tracking.promotion import history
from tracking.promotion.challenger import Challenger
from tracking.promotion.champion_test import BETTER, SAME_DATA, Champion, champion_gates
from tracking.promotion.gates import (
    Gate,
    evaluate_study_gates,
    first_failed,
    not_rolled_back,
    package_reproduces_predictions,
)
from tracking.promotion.isolated_model import IsolatedModel
from tracking.registry.download import download_version
from tracking.registry.promotion_lock import PromotionLock, promotion_lock
from tracking.registry.register import register
from tracking.registry.registry import (
    CANDIDATE,
    CHAMPION,
    DESCRIPTION,
    PREVIOUS,
    ModelVersion,
    NewVersion,
    Registry,
)
from tracking.result import StudyResult
from tracking.tags import CONFIRM, PROMOTION, STUDY_RUN, identity, run_key, tag_filter

NAME: Final = "fdan"
"""The registered model's default name."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class PromotionOptions:
    """Options of a promotion."""

    name: str = NAME
    """Name of the registered model."""
    uri: str | None = None
    """MLflow's server or database; None: the study's."""
    dry_run: bool = False
    """Come to the verdict and change nothing."""
    accept_tie: bool = False
    """Let a winner pass that is not distinguishable from the champion, but cheaper."""
    stores: Path | None = None
    """Folder of the study's stores, if they were moved."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a promotion."""

    promoted: bool
    """Whether it is champion; in a dry run, whether it would be."""
    changed: bool
    """Whether anything was changed."""
    reason: str
    """One line."""
    gates: tuple[Gate, ...] = ()
    version: str | None = None
    """NAME/NUMBER of the winner; None if it is not registered."""
    replaced: str | None = None
    """NAME/NUMBER of the champion before it; None if there was none."""


_DEFAULTS: Final = PromotionOptions()


def promote(
    study: Path,
    options: PromotionOptions = _DEFAULTS,
    *,
    isolated_model: IsolatedModel | None = None,
    log: Log = lambda line: None,
) -> Verdict:
    """Make the confirmed winner of a study the champion, if it passes all gates.

    Args:
        study: Folder of the study.
        options: Options of the promotion.
        isolated_model: Model that was started already; it is closed at the end.
        log: Function that is given each step, a line each.

    Raises:
        FdanError: There is no verdict: no result, or a registry that is unavailable or that
            another promotion keeps.
    """
    result = StudyResult.load(study)
    registry = Registry(options.uri or result.tracking_uri, options.name)
    with (
        tempfile.TemporaryDirectory(prefix="fdan-promote-") as temporary,
        isolated_model or IsolatedModel() as process,
    ):
        challenger = Challenger(
            study, result, options.name, registry.uri, Path(temporary), process, options.stores
        )
        return _Promotion(registry, challenger, options, log).run()


@dataclass(frozen=True)
class _Promotion:
    registry: Registry
    challenger: Challenger
    options: PromotionOptions
    log: Log

    def run(self) -> Verdict:
        registry, challenger, dry_run = self.registry, self.challenger, self.options.dry_run
        champion = registry.version_by_alias(CHAMPION)
        if champion is not None and challenger.is_version(champion):
            if not dry_run:
                self._complete(champion)
            return Verdict(True, False, f"it is champion already, as {champion}", (), str(champion))
        self.log("checking the study")
        challenger.isolated_model.start()
        study_gates = evaluate_study_gates(challenger, evaluate_all=dry_run)
        verdict = self._decide([*study_gates, not_rolled_back(challenger, registry)], champion)
        if dry_run:
            return verdict
        if not verdict.promoted:
            return self._record_refusal(verdict)
        registry.create()
        with promotion_lock(registry, self.log) as lock:
            # Whoever held the lock before may have promoted this very study, or rolled it back.
            now = registry.version_by_alias(CHAMPION)
            if now is not None and challenger.is_version(now):
                self._complete(now)
                return Verdict(True, False, f"it is champion by now, as {now}", (), str(now))
            rolled_back = not_rolled_back(challenger, registry)
            moved = (now and now.number) != (champion and champion.number)
            if moved:
                self.log(f"the champion is {now} by now: comparing again")
            if moved or not rolled_back.passed:
                verdict = self._decide([*study_gates, rolled_back], now)
                if not verdict.promoted:
                    return self._record_refusal(verdict)
            return self._register(verdict, now, lock)

    def _decide(self, gates: list[Gate], version: ModelVersion | None) -> Verdict:
        """The verdict over a champion. gates: those that are about the study alone."""
        if failed := first_failed(gates):
            gates = [*gates, failed.skip(SAME_DATA), failed.skip(BETTER)]
        else:
            champion = None
            if version is not None:
                champion = Champion(version, partial(download_version, self.registry, version))
            gates = [*gates, *champion_gates(self.challenger, champion, self.options.accept_tie)]
        better = gates[-1]
        gates.append(package_reproduces_predictions(self.challenger, gates, self.options.dry_run))
        failed = first_failed(gates)
        reason = (failed or better).reason
        replaced = None if version is None else str(version)
        return Verdict(failed is None, False, reason, tuple(gates), None, replaced)

    def _register(
        self, verdict: Verdict, champion: ModelVersion | None, lock: PromotionLock
    ) -> Verdict:
        """Register the winner and move the aliases."""
        registry, challenger = self.registry, self.challenger
        experiment_id = registry.create_experiment(challenger.result.experiment)
        if champion is not None:  # its own promotion may have been killed after the alias
            self._complete(champion)
        run_id = next(iter(self._runs()), None) or self._create_run(experiment_id)
        tags = {
            **challenger.version_tags(),
            "state": CANDIDATE,
            "verdict": verdict.reason,
            "replaces": "" if champion is None else champion.number,
            "promoted_by": history.user_at_host(),
        }
        new = NewVersion(
            challenger.package, experiment_id, run_id, tags, challenger.card(DESCRIPTION)
        )
        version = register(registry, new, self.log)
        lock.check_champion(champion)
        if champion is not None:
            registry.client.set_registered_model_alias(registry.name, PREVIOUS, champion.number)
        lock.set_champion(version)
        self._complete(version)
        return replace(verdict, changed=True, version=str(version))

    def _complete(self, champion: ModelVersion) -> None:
        """Write the account of the champion's promotion on both versions and, if it is this study's
        winner, on the study's runs, unless it is written."""
        registry = self.registry
        current = registry.version(champion.number)
        if current is None or current.tags.get("state") == CHAMPION:
            return
        reason = current.tags.get("verdict", "")
        replaces = current.tags.get("replaces", "")
        if replaces and (old := registry.version(replaces)) is not None:
            text = f"replaced by {champion}: {reason}"
            history.add_event(registry, old, text, state=history.REPLACED, replaced=text)
        if self.challenger.is_version(current):
            self._tag_runs(f"champion as {champion}: {reason}")
        history.add_event(
            registry, current, f"champion: {reason}", state=CHAMPION, promoted=history.utc_now()
        )

    def _create_run(self, experiment_id: str) -> str:
        """A finished run, for a version whose study has none on this server: for a version without
        a run MLflow's own code looks the model up in whatever database is its default."""
        client, study = self.registry.client, self.challenger.result.study
        run = client.create_run(experiment_id, tags=self._run_tags(), run_name=study)
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _runs(self) -> list[str]:
        """The winner's run and the study's own run, if they are on this server."""
        client, result = self.registry.client, self.challenger.result
        experiment = client.get_experiment_by_name(result.experiment)
        if experiment is None:
            return []
        pages = [
            client.search_runs(
                [experiment.experiment_id],
                tag_filter(tags),
                order_by=["attributes.start_time ASC"],
                max_results=1,
            )
            for tags in (self._run_tags(), identity(result.study_id, STUDY_RUN))
        ]
        return [str(run.info.run_id) for runs in pages for run in runs]

    def _run_tags(self) -> dict[str, str]:
        """The tags by which the tracker finds the winner's run."""
        result = self.challenger.result
        assert result.confirm is not None
        return identity(result.study_id, run_key(result.confirm.run, CONFIRM))

    def _tag_runs(self, text: str) -> None:
        line = limits.value(history.history_line(text), limits.TAG)
        for run_id in self._runs():
            self.registry.client.set_tag(run_id, PROMOTION, line)

    def _record_refusal(self, verdict: Verdict) -> Verdict:
        """A winner that lost against the champion says so on its runs. A study that is not fit to
        be compared leaves no trace, nor does one that another promotion has made champion meanwhile
        (the one accepted a tie, the other did not): its runs say that."""
        if any(gate.name == BETTER and gate.passed is False for gate in verdict.gates):
            champion = self.registry.version_by_alias(CHAMPION)
            if champion is None or not self.challenger.is_version(champion):
                self._tag_runs(f"refused: {verdict.reason}")
        return verdict
