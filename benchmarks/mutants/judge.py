"""Whether each file was read or listed with its reason, exactly once and within bounds."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from benchmarks.mutants.apart import Cost, Outcome
from benchmarks.mutants.corpora import Corpus
from benchmarks.mutants.mutations import TABLE
from fdan.media.worker import MEMORY_MB

# Beyond the limits: what a process holds before it opens a file, and how late it is ended.
_OWN_MB: Final = 200.0
_LATE_S: Final = 5.0
# What the process that prepares may hold, whatever the files are.
_PREPARING_MB: Final = 600.0
# A reason is for people: a few words in one line, and nothing that only a programmer reads. A
# process that decodes has no exit code unless our own code let an exception escape.
_LONGEST: Final = 200
_JARGON: Final = re.compile(r"Error\b|Exception|Traceback|exit code|0x[0-9a-f]")


@dataclass(frozen=True)
class Verdict:
    """What became of one damaged file in one modality."""

    kind: str
    mutation: str
    file: str
    reason: str
    """Why it was not read; empty if it was."""
    read: bool
    seconds: float
    peak_mb: float
    ended: bool
    crash: bool
    """It was neither read nor listed, or took the whole preparation with it."""
    hang: bool


@dataclass(frozen=True)
class Judgement:
    """The verdicts of one corpus, and what was violated, a line each."""

    verdicts: list[Verdict]
    violations: list[str]


def judge(corpus: Corpus, outcome: Outcome, timeout_s: float) -> Judgement:
    """Look at one corpus that was prepared with `timeout_s` seconds a file."""
    name = f"{corpus.name} {corpus.root.name}, {corpus.modality}"
    table = any(kind == TABLE for kind, _ in corpus.damaged.values())
    violations = [
        *(_accounts_of_table if table else _accounts)(corpus, outcome),
        *_costs(outcome, timeout_s),
        *_words(corpus, outcome),
    ]
    if outcome.crash:
        violations.append(f"prepare crashed: {outcome.crash}")
    if outcome.hung:
        violations.append("prepare hung")
    if outcome.peak_mb > _PREPARING_MB:
        violations.append(f"prepare itself held {outcome.peak_mb:.0f} MB")
    judged = _table_verdict if table else _verdict
    verdicts = [judged(corpus, file, outcome, timeout_s) for file in sorted(corpus.damaged)]
    return Judgement(verdicts, [f"{name}: {violation}" for violation in violations])


def _verdict(corpus: Corpus, file: str, outcome: Outcome, timeout_s: float) -> Verdict:
    kind, mutation = corpus.damaged[file]
    if kind == "mp4":
        kind = f"mp4 {'sound' if corpus.modality == 'acoustic' else 'pictures'}"
    reasons = [reason for path, reason in outcome.unreadable if path == file]
    cost = outcome.costs.get(file, Cost())
    read = file in outcome.read
    return Verdict(
        kind=kind,
        mutation=mutation,
        file=f"{corpus.root.name}/{file}",
        reason=" | ".join(reasons),
        read=read,
        seconds=cost.seconds,
        peak_mb=cost.peak_mb,
        ended=cost.ended,
        crash=read + len(reasons) != 1,
        hang=outcome.hung or cost.seconds > _bound_s(cost, timeout_s),
    )


def _table_verdict(corpus: Corpus, file: str, outcome: Outcome, timeout_s: float) -> Verdict:
    """A table costs the process that prepares, not one that decodes."""
    kind, mutation = corpus.damaged[file]
    reasons = [_line(corpus, outcome)] if outcome.refused else []
    reasons += [reason for path, reason in outcome.problems if path == file]
    return Verdict(
        kind=kind,
        mutation=mutation,
        file=f"{corpus.root.name}/{file}",
        reason=reasons[0] if reasons else "",
        read=not reasons,
        seconds=outcome.seconds,
        peak_mb=outcome.peak_mb,
        ended=False,
        crash=bool(outcome.crash),
        hang=outcome.hung,
    )


def _accounts(corpus: Corpus, outcome: Outcome) -> list[str]:
    """Each file once, and each whole one read."""
    if outcome.refused:
        return [f"the whole corpus is refused: {outcome.refused}"]
    if outcome.crash or outcome.hung:
        return []
    times = Counter([*outcome.read, *(path for path, _ in outcome.unreadable)])
    files = {*corpus.damaged, *corpus.whole}
    wrong = [f"{file} is accounted for {times[file]} times" for file in files if times[file] != 1]
    if outcome.rows != len(files):
        wrong.append(f"{outcome.rows} files of {len(files)} were looked at")
    unread = corpus.whole - set(outcome.read)
    return wrong + [f"{file} is whole and was not read" for file in sorted(unread)]


def _accounts_of_table(corpus: Corpus, outcome: Outcome) -> list[str]:
    """All clips are whole: each is read once, or counted as passed over."""
    if outcome.refused:
        named = any(file in outcome.refused for file in corpus.damaged)
        return [] if named else [f"the line does not name the table: {outcome.refused}"]
    if outcome.crash or outcome.hung:
        return []
    wrong = [f"{path} is whole and was not read: {why}" for path, why in outcome.unreadable]
    if outcome.rows != len(outcome.read):
        wrong.append(f"{len(outcome.read)} clips were read {outcome.rows} times")
    left = len(corpus.whole) - len(outcome.read)
    if left != (counted := sum(outcome.passed_over.values())):
        wrong.append(f"{left} clips were not read, {counted} are counted as passed over")
    return wrong


def _costs(outcome: Outcome, timeout_s: float) -> list[str]:
    wrong = []
    for file, cost in outcome.costs.items():
        if cost.seconds > _bound_s(cost, timeout_s):
            wrong.append(f"{file} took {cost.seconds:.1f} s")
        if cost.peak_mb > MEMORY_MB + _OWN_MB:
            wrong.append(f"{file} took {cost.peak_mb:.0f} MB")
    return wrong


def _bound_s(cost: Cost, timeout_s: float) -> float:
    """A file whose process is lost is tried once more."""
    return (2 if cost.ended else 1) * timeout_s + _LATE_S


def _words(corpus: Corpus, outcome: Outcome) -> list[str]:
    """Reasons that nobody could do anything with."""
    reasons = [reason for _, reason in (*outcome.unreadable, *outcome.problems)]
    if outcome.refused:
        reasons.append(_line(corpus, outcome))
    return [
        f"not a reason that people understand: {reason[:_LONGEST]!r}"
        for reason in reasons
        if not _plain(reason)
    ]


def _plain(reason: str) -> bool:
    return 0 < len(reason) <= _LONGEST and reason.isprintable() and not _JARGON.search(reason)


def _line(corpus: Corpus, outcome: Outcome) -> str:
    """What prepare was refused with, less the corpus's name, whose folder may be long."""
    return outcome.refused.removeprefix(f"{corpus.name}:{corpus.root}: ")
