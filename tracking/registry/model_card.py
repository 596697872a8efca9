"""The model card in Markdown: what a version is, how it was chosen, what it may be used for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tracking.result import Confirmation, StudyResult, TestScore

_SPEAKERS: Final = 12
"""Speakers that are listed in the description; the whole card has them all."""

# Paragraphs are single lines: MLflow's page breaks a line wherever the text does.
_USE: Final = (
    "### Intended use and limits\n"
    "Emotion in recorded speech, for research on such corpora and for comparing methods. It names"
    " the most probable of seven emotions that **speakers played or scripts asked for**; what a"
    " person feels is another question, which it does not answer.\n\n"
    "- Not for decisions about people: hiring, policing, health, credit, schooling or anything"
    " alike. The EU's AI Act (article 5) prohibits it at work and in education, with few"
    " exceptions.\n"
    "- Known for the languages, speakers, microphones and scripts of its data and no others."
    " Speakers of other ages, accents or languages may fare much worse: look at the spread between"
    " speakers below.\n"
    "- One emotion a clip. Of longer recordings only the middle {seconds:g} s are heard; silence is"
    " refused.\n"
    "- Probabilities are not calibrated: 0.9 does not mean right nine times of ten."
)

_COMMANDS: Final = """\
### Use
```bash
export MLFLOW_TRACKING_URI={uri}
python -m fdan predict --model models:/{name}@champion clip.wav
mlflow models serve -m models:/{name}@champion --env-manager local --port 5001
printf '{{"dataframe_records": [{{"speech": "%s"}}]}}' "$(base64 -w0 clip.wav)" \\
  | curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @-
python -m tracking champion --name {name}  # who is champion, and why
```"""

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
    sections = [
        _summary(result, test, facts),
        _COMMANDS.format(uri=shlex.quote(uri), name=name),
        _USE.format(seconds=facts["preparation"]["acoustic"]["seconds"]),
        "### Test part, by emotion\n"
        + _table(
            ("emotion", "recall", "precision", "utterances"),
            (
                (emotion, f"{score.recall:.2f}", f"{score.precision:.2f}", score.samples)
                for emotion, score in test.per_class.items()
            ),
        ),
        _per_speaker(test, None if limit is None else _SPEAKERS),
        _how_chosen(result, test, confirm),
        _data(result, facts),
    ]
    card = "\n\n".join(sections)
    if limit is None:
        return card + "\n"
    note = "\n\n*Cut to fit; the whole card is README.md among the version's files.*"
    if len(card) <= limit:
        return card
    while len(card) + len(note) > limit:
        sections.pop()
        card = "\n\n".join(sections)
    return card + note


def _summary(result: StudyResult, test: TestScore, facts: Mapping[str, Any]) -> str:
    run, interval, protocol = facts["run"], test.interval, str(facts["split"]["protocol"])
    baseline = ""
    if test.baseline_uar is not None:
        baseline = (
            "- **Logistic regression** on the same features and split: UAR"
            f" {test.baseline_uar:.3f}\n"
        )
    return (
        f"FDAN on {_escape(result.task)}: test UAR {test.uar:.3f} ({interval.low:.3f} to"
        f" {interval.high:.3f})\n\n"
        f"- **Test part**: {test.samples} utterances; {interval.level:.0%} interval over"
        f" {interval.groups} {interval.by}s; WAR {test.war:.3f}, weighted F1 {test.wf1:.3f}\n"
        f"{baseline}"
        f"- **Network**: {run['backbone']}, {run['layers']} cross-attention layer(s), backbone"
        f" {'frozen' if run['tuning'] == 'frozen' else 'trained'}\n"
        f"- **Study**: {_escape(result.study)} (`{result.study_id}`), trial {facts['trial']}, seed"
        f" {run['seed']}\n"
        f"- **Protocol**: {protocol}: {_PROTOCOLS.get(protocol, 'see model.json')}\n"
        f"- **Data**: `{facts['data'][:16]}`"
    )


def _per_speaker(test: TestScore, limit: int | None) -> str:
    """The hardest speakers first: an average hides them."""
    speakers = sorted(test.per_speaker.items(), key=lambda pair: (pair[1].uar, pair[0]))
    if not speakers:
        return "### Test part, by speaker\nThe corpus names no speakers."
    table = _table(
        ("speaker", "UAR", "WAR", "utterances"),
        (
            (_escape(speaker), f"{score.uar:.2f}", f"{score.war:.2f}", score.samples)
            for speaker, score in speakers[:limit]
        ),
    )
    card = f"### Test part, by speaker, the hardest first\n{table}"
    if more := len(speakers) - len(speakers[:limit]):
        best = speakers[-1][1].uar
        card += f"\n\n{more} more speakers in README.md, the best at {best:.2f}."
    return card


def _how_chosen(result: StudyResult, test: TestScore, confirm: Confirmation) -> str:
    best = next(setting for setting in confirm.settings if setting.trial == confirm.winner)
    values = ", ".join(f"{value:.3f}" for value in best.values)
    counts = ", ".join(f"{n} {state}" for state, n in result.counts.items() if n)
    mean = f"{best.mean:.3f}"
    if best.low is not None and best.low == best.low:
        mean += f" (95 % {best.low:.3f} to {best.high:.3f})"
    times = "once"
    if test.again:
        again = (f"{score.when[:10]} {_escape(str(score.reason))}" for score in test.again)
        times = f"{1 + len(test.again)} times: {'; '.join(again)}"
    return (
        "### How it was chosen\n"
        f"- Searched: {result.wanted} trials ({counts}) by {result.sampler} with pruner"
        f" {result.pruner}, {result.epochs} epochs, on the validation part alone.\n"
        f"- Confirmed with fresh seeds ({len(confirm.settings)} of the best settings): the best"
        f" mean won, validation UAR {values}, mean {mean}. The search had seen"
        f" {best.search_value:.3f}: optimism {best.optimism:+.3f}.\n"
        f"- The test part was scored {times}, on {test.scored[:10]}."
    )


def _data(result: StudyResult, facts: Mapping[str, Any]) -> str:
    table = _table(
        ("part", "modality", "samples", "speakers", "emotions"),
        (
            (
                *(part.part, part.modality, sum(part.emotions.values())),
                *(len(part.speakers) or "unknown", ", ".join(part.emotions)),
            )
            for part in result.parts
        ),
    )
    settings = ", ".join(f"{k} {v}" for k, v in facts["preparation"]["acoustic"].items())
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    return (
        f"### Data and preparation\n{table}\n\n"
        f"Fingerprint `{facts['data']}`. Speech is prepared by the code in this version:"
        f" {settings}. Files that could not be read: {len(result.unreadable)}.\n\n"
        f"Code {result.git or 'unknown'}; {versions}."
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A table with gaps between the columns, since MLflow's page draws tables without any."""
    rule = "|---|" + "--:|" * (len(header) - 1)
    lines = [f"| {' | &emsp;'.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([lines[0], rule, *lines[1:]])


def _escape(text: str) -> str:
    """Text that ends no table's cell and starts no markup."""
    plain = " ".join(text.encode("utf-8", "replace").decode().replace("\0", "").split())
    return "".join("\\" + c if c in "|`*_<>[]\\" else c for c in plain)
