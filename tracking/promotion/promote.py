"""From a finished study to the champion, and back.

The order of writing is such that a kill at any moment changes no champion by half: a version is
registered as a candidate, its files are read back, the champion is seen to be the one it was
compared with, `previous` is set to that, which is true already, and one call moves `champion`. What
is written afterwards is an account of it, and the next promotion completes that. Candidates that a
killed promotion left are used again or removed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fdan.errors import FdanError
from fdan.inference.model_folder import TENSORS
from tracking.promotion import history as audit
from tracking.promotion.champion_test import BETTER, SAME, Champion, against
from tracking.promotion.gates import ANSWERING, ANSWERS, Challenger, Gate, passed
from tracking.promotion.isolated_model import Witness
from tracking.registry.download import fetch
from tracking.registry.promotion_lock import Claim, claimed
from tracking.registry.register import register
from tracking.registry.registry import CHAMPION, PREVIOUS, Registry, RegistryError, Version
from tracking.result import Result
from tracking.tags import CONFIRM, PROMOTION, STUDY_RUN, identity, run_key
from tracking.uri import mask_password

NAME: Final = "fdan"
"""Of the registered model, unless told otherwise."""

_PATIENCE_S: Final = 300.0
_OURS: Final = "not rolled back before"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """promoted: whether the study's winner is champion (in a dry run: would be). changed: whether
    anything was. reason: one line. version: NAME/NUMBER of the winner, `replaced` of the champion
    before it; None where there is none."""

    promoted: bool
    changed: bool
    reason: str
    gates: tuple[Gate, ...] = ()
    version: str | None = None
    replaced: str | None = None


def promote(
    study: Path,
    *,
    name: str = NAME,
    uri: str | None = None,
    dry_run: bool = False,
    accept_tie: bool = False,
    stores: Path | None = None,
    witness: Witness | None = None,
    say: Say = lambda line: None,
) -> Verdict:
    """Make the confirmed winner of the study in this folder the champion, if it passes all gates.

    Args:
        name: of the registered model.
        uri: MLflow's server or database (default: the study's).
        dry_run: come to the verdict and change nothing.
        accept_tie: let a winner pass that is not distinguishable from the champion, but cheaper.
        stores: where the study's stores lie now, if they were moved.
        witness: one that was started already, to answer with what would be registered.
        say: is told what is being done, a line each.

    Raises:
        FdanError: there is no verdict: no result, or a registry that is away or in others' hands.
    """
    result = Result.load(study)
    registry = Registry(uri or result.tracking_uri, name)
    with (
        tempfile.TemporaryDirectory(prefix="fdan-promote-") as temporary,
        witness or Witness() as asked,
    ):
        of = Challenger(study, result, name, registry.uri, Path(temporary), asked, stores)
        champion = registry.aliased(CHAMPION)
        if (held := _already(of, champion)) is not None:
            if not dry_run:
                _complete(registry, of, held)
            return Verdict(True, False, f"it is champion already, as {held}", (), str(held))
        say("looking at the study")
        asked.start()
        studied = passed(of, every=dry_run)
        gates = [*studied, _not_rolled_back(registry, of)]
        verdict = _decide(registry, of, gates, champion, accept_tie, every=dry_run)
        if dry_run:
            return verdict
        if not verdict.promoted:
            return _refused(registry, of, verdict)
        registry.create()
        with claimed(registry, _PATIENCE_S, say) as claim:
            # Whoever held the claim before may have promoted this very study, or rolled it back.
            now = registry.aliased(CHAMPION)
            if (held := _already(of, now)) is not None:
                _complete(registry, of, held)
                return Verdict(True, False, f"it is champion by now, as {held}", (), str(held))
            ours = _not_rolled_back(registry, of)
            moved = (now and now.number) != (champion and champion.number)
            if moved or not ours.ok:
                if moved:
                    say(f"the champion is {now} by now: compared again")
                verdict = _decide(registry, of, [*studied, ours], now, accept_tie)
                if not verdict.promoted:
                    return _refused(registry, of, verdict)
            return _change(registry, of, verdict, now, claim, say)


def rollback(
    *,
    name: str = NAME,
    uri: str,
    reason: str = "no reason given",
    say: Say = lambda line: None,
) -> str:
    """Make the previous champion champion again; says what was done. Raises FdanError."""
    registry = Registry(uri, name)
    if registry.aliased(CHAMPION) is None:
        raise RegistryError(f"{name} has no champion at {mask_password(uri)}: nothing to roll back")
    with claimed(registry, _PATIENCE_S, say) as claim:
        champion = registry.aliased(CHAMPION)
        assert champion is not None
        back = _before(registry, champion)
        if back is None:
            raise RegistryError(f"no version was champion before {champion}: nothing to go back to")
        fetch(registry, back)  # it must still be there, and whole
        older = _before(registry, back, alias=False)
        _check_unmoved(registry, claim, champion)
        # First, so that no promotion brings it back should this end in between.
        words = f"rolled back to {back}: {reason}"
        audit.note(registry, champion, words, state=audit.ROLLED_BACK, rolled_back=words)
        _move(registry, back)
        registry.alias(PREVIOUS, None if older is None else older.number)
        again = f"champion again in place of {champion}, which was rolled back: {reason}"
        audit.note(registry, back, again, state=audit.CHAMPION, verdict=again)
        for version, text in ((champion, words), (back, again)):
            if version.run_id is not None:
                registry.tag_run(version.run_id, {"promotion": text})
    return f"{back} is champion again; {champion} is not ({reason})"


def _decide(
    registry: Registry,
    of: Challenger,
    studied: list[Gate],
    version: Version | None,
    accept_tie: bool,
    every: bool = False,
) -> Verdict:
    """The verdict over a champion. studied: the gates that ask about the study alone. every: look
    at the last gate though others are closed."""
    gates = [*studied, *_contest(registry, of, studied, version, accept_tie)]
    closed = next((gate for gate in gates if not gate.ok), None)
    fit = all(gate.ok for gate in gates if gate.name in ANSWERING)
    if closed is None or (every and fit):
        gates.append(of.answering)
        closed = next((gate for gate in gates if not gate.ok), None)
    else:
        gates.append(Gate(ANSWERS, None, f"not looked at: {closed.name}?"))
    reason = closed.detail if closed else _named(gates, BETTER).detail
    replaced = None if version is None else str(version)
    return Verdict(closed is None, False, reason, tuple(gates), None, replaced)


def _contest(
    registry: Registry,
    of: Challenger,
    studied: list[Gate],
    version: Version | None,
    accept_tie: bool,
) -> list[Gate]:
    closed = next((gate for gate in studied if not gate.ok), None)
    if closed is not None:
        return [Gate(name, None, f"not looked at: {closed.name}?") for name in (SAME, BETTER)]
    try:
        champion = None if version is None else Champion.of(registry, version)
        return against(of, champion, accept_tie)
    except FdanError as error:
        return [Gate(SAME, False, str(error)), Gate(BETTER, None, f"not looked at: {SAME}?")]


def _named(gates: Iterable[Gate], name: str) -> Gate:
    return next(gate for gate in gates if gate.name == name)


def _change(
    registry: Registry,
    of: Challenger,
    verdict: Verdict,
    champion: Version | None,
    claim: Claim,
    say: Say,
) -> Verdict:
    """Register the winner and move the aliases. The claim is held."""
    experiment = registry.experiment(of.result.experiment, create=True)
    assert experiment is not None
    if champion is not None:  # its own promotion may have been broken off after the alias
        _complete(registry, None, champion)
    runs = _runs(registry, of)
    run = runs[0] if runs else registry.create_run(experiment, of.result.study, _identity(of))
    replaces = "" if champion is None else champion.number
    tags = {
        **audit.described(of),
        "state": audit.CANDIDATE,
        "verdict": verdict.reason,
        "replaces": replaces,
        "promoted_by": audit.by(),
    }
    version = register(registry, of, experiment, run, tags, say)
    _check_unmoved(registry, claim, champion)
    if champion is not None:
        registry.alias(PREVIOUS, champion.number)
    _move(registry, version)
    _complete(registry, of, version)
    return replace(verdict, changed=True, version=str(version))


def _check_unmoved(registry: Registry, claim: Claim, champion: Version | None) -> None:
    """That the champion is still the one that was compared with. MLflow cannot compare and set: it
    is asked right before anything is moved, and `_move` asks again afterwards."""
    claim.check()
    now = registry.aliases().get(CHAMPION)
    if now != (None if champion is None else champion.number):
        named = f"version {now}" if now else "no version"
        raise RegistryError(
            f"somebody made {named} of {registry.name} champion in the meantime; nothing was moved,"
            " run it again"
        )


def _move(registry: Registry, new: Version) -> None:
    """The alias champion."""
    registry.alias(CHAMPION, new.number)
    after = registry.aliases().get(CHAMPION)
    if after != new.number:
        raise RegistryError(
            f"somebody made version {after} of {registry.name} champion at the same moment, in"
            f" place of {new}; look at: python -m tracking champion --name {registry.name}"
        )


def _complete(registry: Registry, of: Challenger | None, version: Version) -> None:
    """The account of a promotion, on both versions and the study's runs; nothing where it is
    written."""
    known = registry.version(version.number)
    if known is None or known.tags.get("state") == audit.CHAMPION:
        return
    why = known.tags.get("verdict", "")
    before = known.tags.get("replaces", "")
    old = registry.version(before) if before else None
    if old is not None:
        words = f"replaced by {version}: {why}"
        audit.note(registry, old, words, state=audit.REPLACED, replaced=words)
    if of is not None:
        _tell_runs(registry, of, f"champion as {version}: {why}")
    audit.note(registry, known, f"champion: {why}", state=audit.CHAMPION, promoted=audit.now())


def _already(of: Challenger, champion: Version | None) -> Version | None:
    """The champion, where it is this very model."""
    tensors = of.folder / TENSORS
    if champion is None or not tensors.is_file():
        return None
    tags = {"study_id": of.result.study_id, "sha256": of.sha256}
    return champion if audit.same(champion, tags) else None


def _not_rolled_back(registry: Registry, of: Challenger) -> Gate:
    tensors = of.folder / TENSORS
    if not tensors.is_file():
        return Gate(_OURS, None, f"not looked at: there is no {tensors}")
    tags = {"study_id": of.result.study_id, "sha256": of.sha256}
    for version in registry.versions():
        if audit.same(version, tags) and "rolled_back" in version.tags:
            return Gate(
                _OURS,
                False,
                f"it was champion as {version} and {version.tags['rolled_back']}; if that was a"
                " mistake, remove that version's tag rolled_back in MLflow",
            )
    return Gate(_OURS, True, f"no version of {registry.name} that was rolled back is this model")


def _before(registry: Registry, version: Version, alias: bool = True) -> Version | None:
    """The champion before this one: by the alias, else by what this one replaced."""
    named = registry.aliases().get(PREVIOUS) if alias else None
    number = named if named and named != version.number else version.tags.get("replaces", "")
    return registry.version(number) if number else None


def _runs(registry: Registry, of: Challenger) -> list[str]:
    """The winner's run and the study's parent run, where they are on this server."""
    experiment = registry.experiment(of.result.experiment)
    if experiment is None:
        return []
    wanted = (_identity(of), identity(of.result.study_id, STUDY_RUN))
    found = (registry.run(experiment, tags) for tags in wanted)
    return [run for run in found if run is not None]


def _identity(of: Challenger) -> dict[str, str]:
    """The tags by which the tracker finds the winner's run."""
    confirm = of.result.confirm
    assert confirm is not None
    return identity(of.result.study_id, run_key(confirm["run"], CONFIRM))


def _tell_runs(registry: Registry, of: Challenger, words: str) -> None:
    for run in _runs(registry, of):
        registry.tag_run(run, {PROMOTION: audit.event(words)})


def _refused(registry: Registry, of: Challenger, verdict: Verdict) -> Verdict:
    """A winner that lost against the champion says so on its runs. A study that is not fit to be
    compared leaves no trace, nor does one that another promotion has made champion meanwhile (the
    one accepted a tie, the other did not): its runs say that."""
    lost = _named(verdict.gates, BETTER).ok is False
    if lost and _already(of, registry.aliased(CHAMPION)) is None:
        _tell_runs(registry, of, f"refused: {verdict.reason}")
    return verdict
