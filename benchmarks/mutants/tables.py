"""MELD's tables, and how they go wrong: as text, not as bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

HEADER: Final = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
_EMOTIONS: Final = ("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust")


def table(clips: int) -> bytes:
    """A table with a row for each of `clips` clips: dia0_utt0, dia0_utt1 ..."""
    rows = [
        f'{number + 1},"Oh, no. {number}",Ross,{_EMOTIONS[number % 7]},neutral,0,{number},1,1'
        for number in range(clips)
    ]
    return "\n".join([HEADER, *rows, ""]).encode()


def wrong_header(data: bytes, rng: np.random.Generator) -> bytes:
    """The first line, or the whole table, written as something else than MELD writes it."""
    return _one_of(data, rng, (_renamed, _headless, _semicolons, _utf16, _doubled))


def huge(data: bytes, rng: np.random.Generator) -> bytes:
    """Far more rows, columns or characters than a table of MELD's has."""
    return _one_of(data, rng, (_rows, _junk_rows, _columns, _field, _unclosed, _digits, _heavy))


def _one_of(
    data: bytes,
    rng: np.random.Generator,
    ways: tuple[Callable[[str, np.random.Generator], str], ...],
) -> bytes:
    text = ways[rng.integers(len(ways))](data.decode(), rng)
    return text.encode("latin-1")


def _renamed(text: str, rng: np.random.Generator) -> str:
    name = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")[rng.integers(4)]
    return text.replace(name, name.lower(), 1)


def _headless(text: str, rng: np.random.Generator) -> str:
    return text.split("\n", 1)[1]


def _semicolons(text: str, rng: np.random.Generator) -> str:
    return text.replace(",", ";")


def _utf16(text: str, rng: np.random.Generator) -> str:
    return text.encode("utf-16").decode("latin-1")


def _doubled(text: str, rng: np.random.Generator) -> str:
    """Each column's name twice, the second one without content."""
    first, rest = text.split("\n", 1)
    return f"{first},{first}\n{rest}"


def _rows(text: str, rng: np.random.Generator) -> str:
    """The same rows again and again, up to some 4 MB."""
    first, rest = text.split("\n", 1)
    return f"{first}\n{rest * int(rng.integers(1000, 12_000))}"


def _junk_rows(text: str, rng: np.random.Generator) -> str:
    return text + "x\n" * int(rng.integers(100_000, 3_000_000))


def _columns(text: str, rng: np.random.Generator) -> str:
    return text + "7," * int(rng.integers(100_000, 3_000_000)) + "\n"


def _field(text: str, rng: np.random.Generator) -> str:
    return text.replace("Oh, no. 1", "o" * int(rng.integers(100_000, 6_000_000)), 1)


def _unclosed(text: str, rng: np.random.Generator) -> str:
    """A quotation mark that makes one field of all that follows."""
    return text.replace('"Oh, no. 2"', '"Oh, no. 2', 1) + "and so on\n" * 100_000


def _digits(text: str, rng: np.random.Generator) -> str:
    """A number of so many digits that Python takes no time for it, or of some fewer."""
    digits = "9" * int(rng.integers(1000, 100_000))
    return text.replace(",neutral,0,1,", f",neutral,0,{digits},", 1)


def _heavy(text: str, rng: np.random.Generator) -> str:
    """More megabytes than any table of MELD's, in one line."""
    return text + "z" * int(rng.integers(20_000_000, 60_000_000))
