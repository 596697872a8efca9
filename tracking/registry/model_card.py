"""The model card in Markdown: what a version is, how it was chosen, what it may be used for. Its
text is model_card.md, whose paragraphs are single lines: MLflow's page breaks a line wherever the
text does."""

import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Final

from tracking.result import StudyResult, TestScore, YardstickScore

_SPEAKERS: Final = 12  # speakers that are listed in the description; the whole card has them all

_CUT: Final = "\n\n*Cut to fit; the whole card is README.md among the version's files.*"

_SECTION: Final = "\n\n### "

_TUNINGS: Final = {"frozen": "frozen", "last": "trained in its last stage"}

_PROTOCOLS: Final = {
    "speaker": "speakers of the test part were never heard in training or selection",
    "paper": "of each emotion 2/10 of the speech, **of speakers heard in training, too**",
    "official": "the corpus's own parts",
}


def model_card(
    result: StudyResult, facts: Mapping[str, Any], name: str, uri: str, limit: int | None = None
) -> str:
    """The card of a study's confirmed winner.

    Args:
        result: The study's result; its winner was scored.
        facts: The winner's model.json.
        name: Name of the registered model.
        uri: URI of its server.
        limit: Maximum number of characters: sections are left out from the end, with a note. None
            for the whole card.
    """
    test, confirm = result.test, result.confirm
    assert test is not None and confirm is not None
    best = next(setting for setting in confirm.settings if setting.trial == confirm.winner)
    protocol, acoustic = str(facts["split"]["protocol"]), facts["preparation"]["acoustic"]
    baseline = "".join(map(_beside, test.yardsticks))
    if not test.yardsticks and test.baseline_uar is not None:  # of an earlier release
        baseline = (
            "- **Logistic regression** on the same features and split: UAR"
            f" {test.baseline_uar:.3f}\n"
        )
    mean = f"{best.mean:.3f}"
    if best.low is not None and best.low == best.low:  # of several seeds
        mean += f" (95 % {best.low:.3f} to {best.high:.3f})"
    times = "once"
    if test.again:
        again = (f"{score.when[:10]} {_escape(str(score.reason))}" for score in test.again)
        times = f"{1 + len(test.again)} times: {'; '.join(again)}"
    per_emotion = [
        (emotion, f"{score.recall:.2f}", f"{score.precision:.2f}", score.samples)
        for emotion, score in test.per_class.items()
    ]
    parts = [
        (
            *(part.part, part.modality, sum(part.emotions.values())),
            *(len(part.speakers) or "unknown", ", ".join(part.emotions)),
        )
        for part in result.parts
    ]
    words = {
        "result": result,
        "facts": facts,
        "test": test,
        "best": best,
        "name": name,
        "uri": shlex.quote(uri),
        "task": _escape(result.task),
        "study": _escape(result.study),
        "baseline": baseline,
        "tuning": _TUNINGS.get(facts["run"]["tuning"], "trained"),
        "protocol": protocol,
        "protocol_words": _PROTOCOLS.get(protocol, "see model.json"),
        "per_emotion": _table(("emotion", "recall", "precision", "utterances"), per_emotion),
        "per_speaker": _per_speaker(test, None if limit is None else _SPEAKERS),
        "counts": ", ".join(f"{n} {state}" for state, n in result.counts.items() if n),
        "validated": _validated(result),
        "settings": len(confirm.settings),
        "values": ", ".join(f"{value:.3f}" for value in best.values),
        "mean": mean,
        "times": times,
        "parts": _table(("part", "modality", "samples", "speakers", "emotions"), parts),
        "preparation": ", ".join(f"{key} {value}" for key, value in acoustic.items()),
        "unreadable": len(result.unreadable),
        "code": result.git or "unknown",
        "versions": ", ".join(f"{name} {value}" for name, value in result.versions.items()),
    }
    text = resources.files(__package__).joinpath("model_card.md").read_text(encoding="utf-8")
    sections = [section.format(**words) for section in text.rstrip().split(_SECTION)]
    if limit is None:
        return _SECTION.join(sections) + "\n"
    note = ""
    while len(card := _SECTION.join(sections) + note) > limit:
        sections.pop()
        note = _CUT
    return card


def _validated(result: StudyResult) -> str:
    """What the search went by."""
    if not result.folds:
        return "on the validation part alone"
    return (
        f"by the mean over {result.folds} folds, in which each speaker outside the test part"
        " validates once; this model was then trained on all of these speakers"
    )


def _beside(yardstick: YardstickScore) -> str:
    title = yardstick.title
    return (
        f"- **{title[:1].upper()}{title[1:]}** on the same speech and split: UAR"
        f" {yardstick.uar:.3f}; the model is {yardstick.difference.words('it', 3)}\n"
    )


def _per_speaker(test: TestScore, limit: int | None) -> str:
    """The hardest speakers first: an average hides them."""
    speakers = sorted(test.per_speaker.items(), key=lambda pair: (pair[1].uar, pair[0]))
    if not speakers:
        return "\nThe corpus names no speakers."
    rows = [
        (_escape(speaker), f"{score.uar:.2f}", f"{score.war:.2f}", score.samples)
        for speaker, score in speakers[:limit]
    ]
    text = f", the hardest first\n{_table(('speaker', 'UAR', 'WAR', 'utterances'), rows)}"
    if more := len(speakers) - len(rows):
        best = speakers[-1][1].uar
        text += f"\n\n{more} more speakers in README.md, the best at {best:.2f}."
    return text


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A table with gaps between the columns, since MLflow's page draws tables without any."""
    rule = "|---|" + "--:|" * (len(header) - 1)
    lines = [f"| {' | &emsp;'.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def _escape(text: str) -> str:
    """Text that ends no table's cell and starts no markup."""
    plain = " ".join(text.encode("utf-8", "replace").decode().replace("\0", "").split())
    return "".join("\\" + c if c in "|`*_<>[]\\" else c for c in plain)
