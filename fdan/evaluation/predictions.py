"""A model's predictions for the utterances of one part, and their file.

Two models are compared on the same utterances by these files alone: no model has to run again.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.files import write_atomic
from fdan.metrics import Ints, Measures, confusion_matrix, measures

if TYPE_CHECKING:
    from fdan.data.task import Task

COLUMNS: Final = ("content", "utterance", "speaker", "emotion", "predicted", *EMOTIONS)

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SUM: Final = 1e-6  # how far a row's probabilities may add up to other than 1


@dataclass(frozen=True, eq=False)
class Predictions:
    """N utterances, one row each, in the order of the part that was predicted."""

    contents: tuple[str, ...]  # sha256 of each speech file in hex, which pairs two models' answers
    utterances: tuple[str, ...]
    speakers: tuple[str | None, ...]  # None where the corpus names none
    truth: Ints  # (N,) indices into EMOTIONS
    probabilities: npt.NDArray[np.float64]  # (N, 7), rows add up to 1

    def __post_init__(self) -> None:
        n = len(self.contents)
        assert n == len(self.utterances) == len(self.speakers), "one row an utterance"
        assert self.truth.shape == (n,) and self.probabilities.shape == (n, len(EMOTIONS))

    def __len__(self) -> int:
        return len(self.contents)

    @cached_property
    def predicted(self) -> Ints:
        """(N,) indices of the most probable emotions."""
        most: Ints = self.probabilities.argmax(1)
        return most

    @property
    def confusion(self) -> Ints:
        """(7, 7) counts, rows true."""
        return confusion_matrix(self.truth, self.predicted, len(EMOTIONS))

    def measures(self) -> Measures:
        """WAR, UAR and weighted F1 of all utterances."""
        return measures(self.confusion)

    def per_class(self) -> dict[str, dict[str, float | int]]:
        """{emotion: {"recall", "precision", "samples"}} of the emotions that the truth has. The
        precision of one that is never predicted is 0."""
        confusion = self.confusion
        true, predicted = confusion.sum(1).tolist(), confusion.sum(0).tolist()
        return {
            emotion: {
                "recall": int(confusion[i, i]) / true[i],
                "precision": int(confusion[i, i]) / max(predicted[i], 1),
                "samples": true[i],
            }
            for i, emotion in enumerate(EMOTIONS)
            if true[i]
        }

    def per_speaker(self) -> dict[str, dict[str, float | int]]:
        """{speaker: {"uar", "war", "samples"}}, by name; utterances of no named speaker are left
        out. A speaker's UAR is over the emotions of this speaker's own utterances."""
        speakers: dict[str, dict[str, float | int]] = {}
        for name in sorted({speaker for speaker in self.speakers if speaker is not None}):
            own = np.array([speaker == name for speaker in self.speakers])
            m = measures(confusion_matrix(self.truth[own], self.predicted[own], len(EMOTIONS)))
            speakers[name] = {"uar": m.uar, "war": m.war, "samples": int(own.sum())}
        return speakers

    def write(self, file: Path) -> None:
        """Write a CSV, whole or not at all; `read` gives the same numbers back. Raises OSError."""
        text = io.StringIO(newline="")
        rows = csv.writer(text)  # its CR LF make it quote either in a name
        rows.writerow(COLUMNS)
        for i, probabilities in enumerate(self.probabilities.tolist()):
            emotions = EMOTIONS[self.truth[i]], EMOTIONS[self.predicted[i]]
            names = self.contents[i], self.utterances[i], self.speakers[i] or ""
            rows.writerow([*names, *emotions, *(f"{p:.17g}" for p in probabilities)])
        # A file's name need not be valid UTF-8.
        write_atomic(file, text.getvalue().encode(errors="surrogatepass"), sync=True)

    @classmethod
    def read(cls, file: Path) -> Predictions:
        """DataError, in one line, for a file that is not there or not as `write` left it."""
        try:
            text = file.read_bytes().decode("utf-8", errors="surrogatepass")
            rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
            if rows[:1] != [list(COLUMNS)]:
                raise ValueError("not the columns of a prediction")
            if len(rows) < 2 or not text.endswith("\n"):
                raise ValueError(f"cut off after row {len(rows)}")
            probabilities = [_probabilities(row, n) for n, row in enumerate(rows[1:], start=2)]
        except FileNotFoundError:
            raise DataError(f"predictions {file}: no such file") from None
        except OSError as error:
            raise DataError(f"predictions {file} cannot be read: {error.strerror}") from None
        except (csv.Error, ValueError) as error:
            raise DataError(f"predictions {file} are damaged ({error})") from None
        contents, utterances, speakers, truth = zip(*(row[:4] for row in rows[1:]), strict=True)
        return cls(
            contents,
            utterances,
            tuple(speaker or None for speaker in speakers),
            np.array([EMOTIONS.index(emotion) for emotion in truth], dtype=np.int64),
            np.array(probabilities, dtype=np.float64),
        )


def pooled_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Several models' answers as one: each on utterances of its own, or all on the same, once a
    model. parts: at least one."""
    return Predictions(
        contents=tuple(content for part in parts for content in part.contents),
        utterances=tuple(utterance for part in parts for utterance in part.utterances),
        speakers=tuple(speaker for part in parts for speaker in part.speakers),
        truth=np.concatenate([part.truth for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
    )


def speech_predictions(
    task: Task, part: Ints, probabilities: npt.NDArray[np.float64]
) -> Predictions:
    """What somebody answered on some of a task's utterances.

    Args:
        task: The data.
        part: (n,) numbers of acoustic samples.
        probabilities: (n, 7), rows add up to 1.
    """
    samples = task.samples("acoustic")
    return Predictions(
        contents=tuple(samples.contents[i] for i in part),
        utterances=tuple(samples.utterances[i] for i in part),
        speakers=tuple(samples.people[i] for i in part),
        truth=samples.labels[part],
        probabilities=probabilities,
    )


def _probabilities(row: list[str], number: int) -> list[float]:
    """A row's probabilities; ValueError says what is wrong with the row."""
    try:
        if len(row) != len(COLUMNS):
            raise ValueError(f"{len(row)} columns, not {len(COLUMNS)}")
        content, _, _, emotion, predicted, *texts = row
        if not _SHA256.fullmatch(content):
            raise ValueError("its content is no sha256")
        if emotion not in EMOTIONS:
            raise ValueError(f"emotion {emotion[:20]!r}")
        values = [float(text) for text in texts]
        if not all(0 <= p <= 1 for p in values) or abs(math.fsum(values) - 1) > _SUM:
            raise ValueError("its probabilities do not add up to 1")
        if predicted != EMOTIONS[values.index(max(values))]:
            raise ValueError(f"predicted {predicted[:20]!r} is not its most probable emotion")
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from None
    return values
