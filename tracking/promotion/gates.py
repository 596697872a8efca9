"""What a study's winner has to pass before it may be compared with the champion, each gate with its
reason in words. Nothing here changes anything: the same gates answer `--dry-run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from fdan.data.provenance import reopen
from fdan.data.split import Split
from fdan.data.task import Task
from fdan.errors import FdanError
from fdan.evaluation.predictions import Predictions
from fdan.inference.model_folder import TENSORS, SpeechModel, read_model
from tracking.promotion.isolated_model import Witness
from tracking.registry import package as artifact
from tracking.registry.model_card import card
from tracking.result import PREDICTIONS, WINNER, Result, sha256
from tracking.uri import mask_password

_ANSWERED: Final = 64
"""Utterances of the test part that the registered model is asked again."""

_APART: Final = 1e-5

ANSWERS: Final = "registered model answers alike"
ANSWERING: Final = ("model is the scored one", "figures come out again", "data is there")
"""Gates that have to be open for that one to be looked at."""


class Closed(FdanError):  # noqa: N818
    """A gate that does not let the winner pass; says why."""


@dataclass(frozen=True)
class Gate:
    """ok: None where another gate's failure leaves nothing to look at."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Challenger:
    """A study's winner.

    name, uri: the model that it would be registered as, and on which server, for its card.
    temporary: an empty folder. witness: asks what would be registered. stores: where the stores lie
    now, if they were moved.
    """

    study: Path
    result: Result
    name: str
    uri: str
    temporary: Path
    witness: Witness
    stores: Path | None = None

    @property
    def folder(self) -> Path:
        return self.study / WINNER

    @cached_property
    def model(self) -> SpeechModel:
        return read_model(self.folder)

    @cached_property
    def sha256(self) -> str:
        """Of its tensors' file, as the gates saw it. Raises OSError where there is none."""
        return sha256(self.folder / TENSORS)

    @cached_property
    def answers(self) -> Predictions:
        return Predictions.read(self.folder / PREDICTIONS)

    @cached_property
    def data(self) -> tuple[Task, Split]:
        return reopen(self.result.origin, self.stores)

    @cached_property
    def built(self) -> Path:
        """Folder of what would be registered (tracking/registry/package.py)."""
        facts, result = self.model.facts, self.result
        metadata = {
            "study": result.study,
            "study_id": result.study_id,
            "trial": facts["trial"],
            "data": facts["data"],
            "preparation": facts["preparation"],
            "sha256": self.sha256,
        }
        folder = self.temporary / "model"
        whole = card(result, facts, self.name, mask_password(self.uri))
        artifact.build(folder, self.folder, whole, metadata)
        return folder

    @cached_property
    def answering(self) -> Gate:
        """What would be registered, loaded by itself and asked again about the store's images. It
        takes seconds, so it is the last gate. It needs ANSWERING."""
        return looked(ANSWERS, partial(_same_answers, self))


Look = Callable[[Challenger], str]


def study_finished(of: Challenger) -> str:
    if of.result.state != "COMPLETE":
        raise Closed(
            f"the study is {of.result.state} ({of.result.reason}); finish it: {of.result.command}"
        )
    return of.result.reason or of.result.state


def winner_confirmed(of: Challenger) -> str:
    confirm = of.result.confirm
    if confirm is None:
        raise Closed(
            "no winner was confirmed with fresh seeds; the best of many trials is partly luck:"
            f" {of.result.command} --confirm 3"
        )
    facts = of.model.facts
    found = (facts.get("trial"), facts.get("confirm_run"), of.model.run.training.seed)
    wanted = (confirm["winner"], confirm["run"], confirm["seed"])
    if found != wanted:
        raise Closed(
            f"{of.folder} holds trial {found[0]}, run {found[1]}, seed {found[2]}; the confirmed"
            f" winner is trial {wanted[0]}, run {wanted[1]}, seed {wanted[2]}"
        )
    return f"trial {confirm['winner']}, of {len(confirm['settings'])} settings with fresh seeds"


def test_scored(of: Challenger) -> str:
    test = of.result.test
    if test is None:
        raise Closed(f"the test part was not scored: {of.result.command} --score-test")
    again = f", and {len(test['again'])} times again" if test["again"] else ""
    return f"UAR {test['uar']:.4f} on {test['samples']} utterances, {test['scored'][:10]}{again}"


def checks_passed(of: Challenger) -> str:
    checks = of.result.checks
    failed = [one for one in checks if one["ok"] is not True]
    if failed:
        raise Closed("; ".join(f"not so: {one['name']} ({one['detail']})" for one in failed))
    if not checks:
        raise Closed("the study checked nothing; run its command again")
    return f"{len(checks)} hold: " + "; ".join(str(one["name"]) for one in checks)


def same_model(of: Challenger) -> str:
    scored, here = _test(of)["model_sha256"], of.sha256
    if scored != here:
        raise Closed(
            f"{of.folder / TENSORS} is not what was scored: sha256 {here[:12]}, not {scored[:12]}"
        )
    return f"sha256 {here[:12]}"


def same_figures(of: Challenger) -> str:
    test, found = _test(of), of.answers.measures()
    for name in ("uar", "war", "wf1"):
        if abs(getattr(found, name) - test[name]) > 1e-12:
            raise Closed(
                f"{PREDICTIONS} gives {name} {getattr(found, name):.6f}, recorded is"
                f" {test[name]:.6f}"
            )
    if len(of.answers) != test["samples"]:
        raise Closed(f"{PREDICTIONS} has {len(of.answers)} utterances, scored {test['samples']}")
    return f"{PREDICTIONS} gives WAR {found.war:.4f}, UAR {found.uar:.4f}, w-F1 {found.wf1:.4f}"


def same_data(of: Challenger) -> str:
    facts = of.model.facts
    for name in ("data", "split", "preparation"):
        if facts.get(name) != of.result.origin[name]:
            raise Closed(f"the model's {name} is not the study's: {of.folder} is another's")
    task, _ = of.data
    return f"{task.name}, fingerprint {task.fingerprint[:12]}"


def _same_answers(of: Challenger) -> str:
    task, parts = of.data
    contents = task.samples("acoustic").contents
    chosen = parts.acoustic_test[:_ANSWERED]
    if len(of.answers) != len(parts.acoustic_test) or any(
        contents[i] != of.answers.contents[row] for row, i in enumerate(chosen.tolist())
    ):
        raise Closed(f"{PREDICTIONS} is not about the test part of the store")
    found = of.witness.answers(of.built, task.images("acoustic", chosen))
    apart = float(np.abs(found - of.answers.probabilities[: len(chosen)]).max())
    if not apart <= _APART:
        raise Closed(f"the model to register answers otherwise than {PREDICTIONS}, by {apart:.1e}")
    return f"{len(chosen)} utterances asked again, probabilities differ by {apart:.0e} at most"


@dataclass(frozen=True)
class Step:
    name: str
    look: Look
    needs: tuple[str, ...] = ()


STUDY: Final = (
    Step("study finished", study_finished),
    Step("winner confirmed", winner_confirmed),
    Step("test part scored", test_scored),
    Step("invariants hold", checks_passed),
    Step("model is the scored one", same_model, ("test part scored",)),
    Step("figures come out again", same_figures, ("test part scored",)),
    Step("data is there", same_data, ("winner confirmed",)),
)


def passed(of: Challenger, every: bool) -> list[Gate]:
    """The gates that ask about the study alone, in order. every: look at the ones after a closed
    one, too, as far as they do not depend on it."""
    found: dict[str, Gate] = {}
    for step in STUDY:
        needed = step.needs if every else tuple(found)
        missing = next((name for name in needed if not found[name].ok), None)
        if missing is not None:
            found[step.name] = Gate(step.name, None, f"not looked at: {missing}?")
            continue
        found[step.name] = looked(step.name, partial(step.look, of))
    return list(found.values())


def looked(name: str, look: Callable[[], str]) -> Gate:
    """A gate that is open unless `look` raises FdanError, or cannot read a file."""
    try:
        return Gate(name, True, look())
    except (FdanError, OSError) as error:
        return Gate(name, False, " ".join(str(error).split()))


def _test(of: Challenger) -> dict[str, Any]:
    assert of.result.test is not None
    return of.result.test
