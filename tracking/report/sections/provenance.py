"""What the study's figures rest on: its data, and checks, versions, settings and the command."""

from collections.abc import Iterator
from typing import Final

from fdan.emotions import EMOTIONS
from tracking.report.blocks import WORDS, Block, Code, Facts, Note, Table, Text
from tracking.report.formatting import count, listed, moment, sentence, setting, short, thousands
from tracking.result import StudyResult

_FILES: Final = 20
_NAMES: Final = {"visual": "faces", "acoustic": "speech"}


def data_blocks(result: StudyResult) -> Iterator[Block]:
    split = result.origin.get("split", {})
    facts = [
        ("task", result.task),
        ("split", ", ".join(f"{name} {setting(value)}" for name, value in split.items())),
        ("fingerprint", str(result.origin["data"])),
    ]
    if result.folds:
        said = "each trial trains all of them, and its value is their mean"
        final = "the winner's model is trained on all speakers outside the test part"
        facts.insert(2, ("folds", f"{count(result.folds, 'fold')} by speaker: {said}; {final}"))
    if "outer" in split:
        words = "the test part is this one of the outer folds of all speakers"
        facts.insert(2, ("outer fold", f"{split['outer']}: {words}"))
    yield Facts(facts)
    if result.parts:
        yield from _parts(result)
    else:
        yield Note("The parts of the data were not counted.")
    yield from map(Note, absences(result))
    unreadable = result.unreadable
    if not unreadable:
        yield Text("Every file could be read.")
        return
    yield Note(
        f"{count(len(unreadable), 'file')} could not be read, and"
        f" {'is' if len(unreadable) == 1 else 'are'} in no part."
    )
    rows = [(short(f.path, 200), sentence(short(f.reason, 200))) for f in unreadable[:_FILES]]
    if len(unreadable) > _FILES:
        rows.append((f"{len(unreadable) - _FILES} more", ""))
    folded = "" if len(rows) <= 5 else "These files"
    yield Table(("file", "reason"), rows, WORDS, folded=folded)


def absences(result: StudyResult) -> list[str]:
    """A sentence for each modality that has no sample of some of the seven emotions."""
    sentences = []
    for modality in dict.fromkeys(part.modality for part in result.parts):
        there = [part.emotions for part in result.parts if part.modality == modality]
        absent = [name for name in EMOTIONS if not any(part.get(name) for part in there)]
        if absent:
            sentences.append(
                f"The data have no {_NAMES.get(modality, modality)} of {', '.join(absent)}: no"
                " model learned that from them."
            )
    return sentences


def _parts(result: StudyResult) -> Iterator[Table]:
    """Samples by emotion, and by speaker."""
    parts = result.parts
    titles = [f"{_NAMES.get(part.modality, part.modality)}, {part.part}" for part in parts]
    names = dict.fromkeys([*EMOTIONS, *(name for part in parts for name in part.emotions)])
    rows = [(name, *(thousands(part.emotions.get(name, 0)) for part in parts)) for name in names]
    rows.append(("all", *(thousands(sum(part.emotions.values())) for part in parts)))
    yield Table(("emotion", *titles), rows, strong="all")
    by_speaker = []
    for title, part in zip(titles, parts, strict=True):
        who = listed([f"{name} ({thousands(n)})" for name, n in part.speakers.items()], 16)
        by_speaker.append((title, len(part.speakers) or "–", who or "not known"))
    yield Table(("part", "speakers", "who, and how many samples"), by_speaker, (1, 2))


def provenance_blocks(result: StudyResult) -> Iterator[Block]:
    if broken := sum(not check.ok for check in result.checks):
        verb = "does" if broken == 1 else "do"
        yield Note(f"{count(broken, 'check')} of {len(result.checks)} {verb} not hold.")
    elif result.checks:
        yield Text(f"All {count(len(result.checks), 'check')} hold.")
    else:
        yield Note("No checks were recorded.")
    checks = [(check.name, "yes" if check.ok else "NO", check.detail) for check in result.checks]
    yield Table(("check", "holds", "detail"), checks, WORDS)
    yield Text("The same command continues the study, or extends it with a higher --trials:")
    yield Code(result.command)
    address = result.tracking_uri
    if address.startswith("http"):  # a server, which has a page of the study
        address = address.rstrip("/") + (result.page or "")
    yield Facts(
        (
            ("study", result.study),
            ("study id", result.study_id),
            ("MLflow experiment", result.experiment),
            ("MLflow", address),
            ("sampler, pruner", f"{result.sampler}, {result.pruner}"),
            ("git", result.git or "not a repository"),
            ("written", moment(result.written)),
        )
    )
    fixed = [(name, setting(value)) for name, value in sorted(result.fixed.items())]
    yield Table(("setting", "value"), fixed, WORDS, folded="Settings that were not searched")
    yield Table(("package", "version"), sorted(result.versions.items()), WORDS, folded="Versions")
