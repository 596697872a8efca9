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

from fdan.files import first_line, sha256_file
from tracking.backend import limits
from tracking.promotion import gates, history
from tracking.promotion.challenger import Challenger
from tracking.promotion.isolated_model import IsolatedModel
from tracking.registry.download import ArtifactFolder, download_version
from tracking.registry.promotion_lock import PromotionLock, promotion_lock
from tracking.registry.registry import (
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    NewVersion,
    Registry,
    RegistryError,
)
from tracking.result import WINNER, StudyResult
from tracking.tags import CONFIRM, PROMOTION, STUDY_RUN, identity, run_key, tag_filter
from tracking.uri import mask_password

NAME: Final = "fdan"  # the registered model's default name
_MLFLOWS_NOTE: Final = "registered_model_meta"  # MLflow notes what it loaded beside the files

Log = Callable[[str], None]


@dataclass(frozen=True)
class PromotionOptions:
    """Options of a promotion."""

    name: str = NAME
    uri: str | None = None  # MLflow's server or database; None: the study's
    dry_run: bool = False
    accept_tie: bool = False  # pass a winner not distinguishable from the champion, but cheaper
    stores: Path | None = None  # folder of the study's stores, if they were moved
    accept_yardstick_tie: bool = False  # pass a winner that is not better than every yardstick


@dataclass(frozen=True)
class Verdict:
    """Outcome of a promotion."""

    promoted: bool  # whether it is champion; in a dry run, whether it would be
    changed: bool
    reason: str
    gates: tuple[gates.Gate, ...] = ()
    version: str | None = None  # NAME/NUMBER of the winner; None if it is not registered
    replaced: str | None = None  # NAME/NUMBER of the champion before it; None if there was none


def promote(
    study: Path,
    options: PromotionOptions,
    *,
    isolated_model: IsolatedModel | None = None,
    log: Log = lambda line: None,
) -> Verdict:
    """Make the confirmed winner of a study the champion, if it passes all gates. Raises FdanError
    without a verdict: no result, or a registry that is unavailable or kept by another promotion.

    Args:
        study: Folder of the study.
        options: Options of the promotion.
        isolated_model: Model that was started already; it is closed at the end.
        log: Function that is given each step, a line each.
    """
    result = StudyResult.load(study)
    registry = Registry(options.uri or result.tracking_uri, options.name)
    with (
        tempfile.TemporaryDirectory(prefix="fdan-promote-") as temporary,
        isolated_model or IsolatedModel() as process,
    ):
        challenger = Challenger(
            study / WINNER, result, registry, Path(temporary), process, options.stores
        )
        return _Promotion(registry, challenger, options, log).run()


@dataclass(frozen=True)
class _Promotion:
    registry: Registry
    challenger: Challenger
    options: PromotionOptions
    log: Log

    def run(self) -> Verdict:
        registry = self.registry
        champion = registry.version_by_alias(CHAMPION)
        if verdict := self._is_champion(champion, "already"):
            return verdict
        registry.check(self.challenger.result.experiment)
        self.log("checking the study")
        self.challenger.isolated_model.start()
        verdict = self._decide(champion)
        if self.options.dry_run:
            return verdict
        if not verdict.promoted:
            return self._record_refusal(verdict)
        registry.create()
        with promotion_lock(registry, self.log) as lock:
            # Whoever held the lock before may have promoted this very study, or rolled it back.
            now = registry.version_by_alias(CHAMPION)
            if by_now := self._is_champion(now, "by now"):
                return by_now
            if (now and now.number) != (champion and champion.number):
                self.log(f"the champion is {now} by now: comparing again")
            verdict = self._decide(now)  # what takes long is remembered
            if not verdict.promoted:
                return self._record_refusal(verdict)
            return self._register(verdict, now, lock)

    def _is_champion(self, version: ModelVersion | None, when: str) -> Verdict | None:
        """The verdict if the champion is this very model."""
        if version is None or not self.challenger.is_version(version):
            return None
        if not self.options.dry_run:
            self._complete(version)
        return Verdict(True, False, f"it is champion {when}, as {version}", version=str(version))

    def _decide(self, version: ModelVersion | None) -> Verdict:
        champion, replaced = None, None
        if version is not None:
            champion = gates.Champion(version, partial(download_version, self.registry, version))
            replaced = str(version)
        options = self.options
        context = gates.GateContext(
            self.challenger, champion, options.accept_tie, options.accept_yardstick_tie
        )
        verdicts = gates.evaluate_gates(context, self.options.dry_run)
        failed = gates.first_failed(verdicts.values())
        reason = "; ".join(verdicts[name].reason for name in (gates.BETTER, gates.YARDSTICKS))
        if failed is not None:
            reason = failed.reason
        return Verdict(failed is None, False, reason, tuple(verdicts.values()), replaced=replaced)

    def _register(
        self, verdict: Verdict, champion: ModelVersion | None, lock: PromotionLock
    ) -> Verdict:
        """Register the winner and move the aliases."""
        registry, challenger = self.registry, self.challenger
        experiment_id = registry.create_experiment(challenger.result.experiment)
        if champion is not None:  # its own promotion may have been killed after the alias
            self._complete(champion)
        run_ids = self._runs() or [self._create_run(experiment_id)]
        tags = {
            **challenger.version_tags(),
            "state": history.CANDIDATE,
            "verdict": verdict.reason,
            "replaces": "" if champion is None else champion.number,
            "promoted_by": history.user_at_host(),
        }
        card = challenger.card(limits.DESCRIPTION)
        version = self._add_version(
            NewVersion(challenger.package, experiment_id, run_ids[0], tags, card)
        )
        lock.check_champion(champion)
        if champion is not None:
            registry.client.set_registered_model_alias(registry.name, PREVIOUS, champion.number)
        lock.set_champion(version)
        self._complete(version)
        return replace(verdict, changed=True, version=str(version))

    def _add_version(self, new: NewVersion) -> ModelVersion:
        """Register a model and read its files back. If it is a version already, that one is
        returned. Other candidates are nobody's, since the lock is held, and deleted."""
        registry, client = self.registry, self.registry.client
        for version in registry.versions():
            if version.is_model(new.tags) and not _difference(registry, new.folder, version):
                self.log(f"{version} is this model already")
                registry.set_version_tags(version.number, new.tags)
                return version
            if version.tags.get("state") == history.CANDIDATE:
                self.log(f"{version} was left by a promotion that was killed: deleted")
                client.delete_model_version(registry.name, version.number)
        size = sum(file.stat().st_size for file in new.folder.rglob("*") if file.is_file())
        self.log(f"registering the model ({size / 1e6:.0f} MB)")
        version = registry.add_version(new)
        if difference := _difference(registry, new.folder, version):
            client.delete_model_version(registry.name, version.number)
            # Files of another release may be left in it: the next try uploads anew.
            if version.model_id is not None:
                client.delete_logged_model(version.model_id)
            server = mask_password(registry.uri)
            raise RegistryError(f"{server} does not return what it was given: {difference}")
        return version

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
        runs: list[str] = []
        if experiment is not None:
            where, order = [experiment.experiment_id], ["attributes.start_time ASC"]
            for tags in (self._run_tags(), identity(result.study_id, STUDY_RUN)):
                found = client.search_runs(where, tag_filter(tags), max_results=1, order_by=order)
                runs += [str(run.info.run_id) for run in found]
        return runs

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
        """A winner that lost against a yardstick or the champion says so on its runs. A study that
        is not fit to be compared leaves no trace, nor does one that another promotion has made
        champion meanwhile (the one accepted a tie, the other did not): its runs say that."""
        lost = (gates.YARDSTICKS, gates.BETTER)
        if any(gate.name in lost and gate.passed is False for gate in verdict.gates):
            champion = self.registry.version_by_alias(CHAMPION)
            if champion is None or not self.challenger.is_version(champion):
                self._tag_runs(f"refused: {verdict.reason}")
        return verdict


def _difference(registry: Registry, folder: Path, version: ModelVersion) -> str:
    """The first difference between a folder and a version's files; empty if there is none."""
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    artifacts = ArtifactFolder(version.source, registry.uri)
    try:
        stored = set(artifacts.files()) - {_MLFLOWS_NOTE}
        if stored != files.keys():
            return f"{min(stored ^ files.keys())} is only in one of the two"
        for path, file in files.items():
            if path == "MLmodel":  # it says when it was made
                continue
            with tempfile.TemporaryDirectory(prefix="fdan-read-back-") as temporary:
                if sha256_file(artifacts.download(path, Path(temporary))) != sha256_file(file):
                    return f"{path} has another sha256"
    except Exception as error:
        return f"it cannot be read ({first_line(error, 200)})"
    return ""
