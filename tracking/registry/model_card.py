"""The model card: what a version is, how it was chosen, what it may be used for. Markdown.

Two lengths: whole, as README.md in the registered model, and within the characters that MLflow has
for a version's description.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tracking.result import ScoreInterval, StudyResult, TestScore

_SPEAKERS: Final = 12
"""Speakers that are listed in the description; the whole card has them all."""

# Paragraphs are single lines: MLflow's page breaks a line wherever the text does.
_USE: Final = (
    "Emotion in recorded speech, for research on such corpora and for comparing methods. It names"
    " the most probable of seven emotions that **speakers played or scripts asked for**; what a"
    " person feels is another question, which it does not answer.",
    "",
    "- Not for decisions about people: hiring, policing, health, credit, schooling or anything"
    " alike. The EU's AI Act (article 5) prohibits it at work and in education, with few"
    " exceptions.",
    "- Known for the languages, speakers, microphones and scripts of its data and no others."
    " Speakers of other ages, accents or languages may fare much worse: look at the spread between"
    " speakers below.",
    "- One emotion a clip. Of longer recordings only the middle {seconds} are heard; silence is"
    " refused.",
    "- Probabilities are not calibrated: 0.9 does not mean right nine times of ten.",
)


def model_card(
    result: StudyResult, facts: Mapping[str, Any], name: str, uri: str, limit: int | None = None
) -> str:
    """The card of the study's confirmed winner, which must have been scored.

    facts: of its model.json. name, uri: of the registered model and its server. limit: characters;
    whole sections are left out from the end where it would be longer, with a word about it.
    """
    assert result.test is not None and result.confirm is not None
    sections = [
        _summary(result, facts),
        _commands(name, uri),
        _intended(facts),
        _per_class(result.test),
        _per_speaker(result.test, None if limit is None else _SPEAKERS),
        _chosen(result),
        _data(result, facts),
    ]
    if limit is None:
        return "\n\n".join(sections) + "\n"
    note = "\n\n*Cut to fit; the whole card is README.md among the version's files.*"
    kept: list[str] = []
    for section in sections:
        if len("\n\n".join([*kept, section])) + len(note) > limit:
            return "\n\n".join(kept) + note
        kept.append(section)
    return "\n\n".join(kept)


def _summary(result: StudyResult, facts: Mapping[str, Any]) -> str:
    test = result.test
    assert test is not None
    run = facts["run"]
    return _lines(
        f"FDAN on {_cell(result.task)}: test UAR {_with(test)}",
        "",
        f"- **Test part**: {test.samples} utterances; {_groups(test.interval)}; WAR"
        f" {test.war:.3f}, weighted F1 {test.wf1:.3f}",
        *_baseline(test),
        f"- **Network**: {run['backbone']}, {run['layers']} cross-attention layer(s), backbone"
        f" {'frozen' if run['tuning'] == 'frozen' else 'trained'}",
        f"- **Study**: {_cell(result.study)} (`{result.study_id}`), trial {facts['trial']}, seed"
        f" {run['seed']}",
        f"- **Protocol**: {_protocol(facts)}",
        f"- **Data**: `{facts['data'][:16]}`",
    )


def _baseline(test: TestScore) -> Iterator[str]:
    if test.baseline_uar is not None:
        yield (
            f"- **Logistic regression** on the same features and split: UAR {test.baseline_uar:.3f}"
        )


def _commands(name: str, uri: str) -> str:
    champion = f"models:/{name}@champion"
    return _lines(
        "### Use",
        "```bash",
        f"export MLFLOW_TRACKING_URI={shlex.quote(uri)}",
        f"python -m fdan predict --model {champion} clip.wav",
        f"mlflow models serve -m {champion} --env-manager local --port 5001",
        """printf '{"dataframe_records": [{"speech": "%s"}]}' "$(base64 -w0 clip.wav)" \\""",
        "  | curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @-",
        f"python -m tracking champion --name {name}  # who is champion, and why",
        "```",
    )


def _intended(facts: Mapping[str, Any]) -> str:
    seconds = f"{facts['preparation']['acoustic']['seconds']:g} s"
    return _lines("### Intended use and limits", *_USE).format(seconds=seconds)


def _per_class(test: TestScore) -> str:
    return _lines(
        "### Test part, by emotion",
        *_table(
            ("emotion", "recall", "precision", "utterances"),
            (
                (name, f"{one.recall:.2f}", f"{one.precision:.2f}", one.samples)
                for name, one in test.per_class.items()
            ),
        ),
    )


def _per_speaker(test: TestScore, most: int | None) -> str:
    """The hardest speakers first: an average hides them."""
    speakers = sorted(test.per_speaker.items(), key=lambda pair: (pair[1].uar, pair[0]))
    if not speakers:
        return "### Test part, by speaker\nThe corpus names no speakers."
    shown = speakers[:most]
    more = len(speakers) - len(shown)
    rest = f"\n{more} more speakers in README.md, the best at {speakers[-1][1].uar:.2f}."
    return _lines(
        "### Test part, by speaker, the hardest first",
        *_table(
            ("speaker", "UAR", "WAR", "utterances"),
            ((_cell(name), f"{one.uar:.2f}", f"{one.war:.2f}", one.samples) for name, one in shown),
        ),
        *([rest] if more else []),
    )


def _chosen(result: StudyResult) -> str:
    confirm, test = result.confirm, result.test
    assert confirm is not None and test is not None
    best = next(one for one in confirm.settings if one.trial == confirm.winner)
    values = ", ".join(f"{value:.3f}" for value in best.values)
    counts = ", ".join(f"{n} {state}" for state, n in result.counts.items() if n)
    mean = f"{best.mean:.3f}"
    if best.low is not None and best.low == best.low:
        mean += f" (95 % {best.low:.3f} to {best.high:.3f})"
    again = len(test.again)
    asked = (
        "once"
        if not again
        else f"{1 + again} times: "
        + "; ".join(f"{one.when[:10]} {_cell(str(one.reason))}" for one in test.again)
    )
    return _lines(
        "### How it was chosen",
        f"- Searched: {result.wanted} trials ({counts}) by {result.sampler} with pruner"
        f" {result.pruner}, {result.epochs} epochs, on the validation part alone.",
        f"- Confirmed with fresh seeds ({len(confirm.settings)} of the best settings): the best"
        f" mean won, validation UAR {values}, mean {mean}. The search had seen"
        f" {best.search_value:.3f}: optimism {best.optimism:+.3f}.",
        f"- The test part was scored {asked}, on {test.scored[:10]}.",
    )


def _data(result: StudyResult, facts: Mapping[str, Any]) -> str:
    rows = [
        (
            part.part,
            part.modality,
            sum(part.emotions.values()),
            len(part.speakers) or "unknown",
            ", ".join(part.emotions),
        )
        for part in result.parts
    ]
    settings = ", ".join(
        f"{key} {value}" for key, value in facts["preparation"]["acoustic"].items()
    )
    versions = ", ".join(f"{name} {value}" for name, value in result.versions.items())
    return _lines(
        "### Data and preparation",
        *_table(("part", "modality", "samples", "speakers", "emotions"), rows),
        "",
        f"Fingerprint `{facts['data']}`. Speech is prepared by the code in this version:"
        f" {settings}. Files that could not be read: {len(result.unreadable)}.",
        "",
        f"Code {result.git or 'unknown'}; {versions}.",
    )


def _protocol(facts: Mapping[str, Any]) -> str:
    words = {
        "speaker": "speakers of the test part were never heard in training or selection",
        "paper": "of each emotion 2/10 of the speech, **of speakers heard in training, too**",
        "official": "the corpus's own parts",
    }
    protocol = str(facts["split"]["protocol"])
    return f"{protocol}: {words.get(protocol, 'see model.json')}"


def _with(test: TestScore) -> str:
    interval = test.interval
    return f"{test.uar:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _groups(interval: ScoreInterval) -> str:
    return f"{interval.level:.0%} interval over {interval.groups} {interval.by}s"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """With gaps between the columns, since MLflow's page draws tables without any."""
    yield f"| {' | &emsp;'.join(header)} |"
    yield "|---|" + "--:|" * (len(header) - 1)
    for row in rows:
        yield f"| {' | &emsp;'.join(map(str, row))} |"


def _cell(text: str) -> str:
    """Text that ends no table's cell and starts no markup."""
    plain = " ".join(text.encode("utf-8", "replace").decode().replace("\0", "").split())
    return "".join("\\" + c if c in "|`*_<>[]\\" else c for c in plain)


def _lines(*lines: str) -> str:
    return "\n".join(lines)
