"""Ways in which files are damaged. Each takes a whole file and gives a spoilt one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.mutants import tables
from benchmarks.mutants.headers import FORMAT, LENGTH, fields

TABLE: Final = "csv"


@dataclass(frozen=True)
class Whole:
    """A whole file, and the content of a file of another kind."""

    kind: str
    data: bytes
    stranger: bytes


Mutation = Callable[[Whole, np.random.Generator], bytes]


def truncated(whole: Whole, rng: np.random.Generator) -> bytes:
    """Broken off: anywhere, or, as often, within the first bytes, where the headers are."""
    end = len(whole.data) if rng.random() < 0.5 else min(len(whole.data), 600)
    return whole.data[: rng.integers(1, end)]


def bit_flipped(whole: Whole, rng: np.random.Generator) -> bytes:
    """1 to 256 bits turned over: anywhere, or, as often, within the first bytes."""
    data = np.frombuffer(whole.data, np.uint8).copy()
    end = len(data) if rng.random() < 0.5 else min(len(data), 600)
    for at in rng.integers(0, end, int(2 ** rng.uniform(0, 8))):
        data[at] ^= 1 << rng.integers(8)
    return data.tobytes()


def wrong_header(whole: Whole, rng: np.random.Generator) -> bytes:
    """Something else than its name says: another kind's content or beginning, or impossible
    values in the fields that say what it is."""
    chance = rng.random()
    if chance < 0.1:
        return whole.stranger
    if chance < 0.25:
        cut = int(rng.integers(2, 64))
        return whole.stranger[:cut] + whole.data[cut:]
    if whole.kind == TABLE:
        return tables.wrong_header(whole.data, rng)
    return _overwritten(whole, FORMAT, _wrong, rng)


def zero_length(whole: Whole, rng: np.random.Generator) -> bytes:
    """Nothing."""
    return b""


def huge_length(whole: Whole, rng: np.random.Generator) -> bytes:
    """Lengths far beyond what is there. A table has no field that says how long it is: it is
    huge itself."""
    if whole.kind == TABLE:
        return tables.huge(whole.data, rng)
    return _overwritten(whole, LENGTH, _huge, rng)


MUTATIONS: Final[dict[str, Mutation]] = {
    "truncated": truncated,
    "bit-flipped": bit_flipped,
    "wrong header": wrong_header,
    "zero length": zero_length,
    "huge declared length": huge_length,
}


def _wrong(bits: int, rng: np.random.Generator) -> int:
    """Nothing, one, all ones, or anything: as numbers of so many bits."""
    return (0, 1, 2**bits - 1, int(rng.integers(2**bits)))[rng.integers(4)]


def _huge(bits: int, rng: np.random.Generator) -> int:
    """The largest there is, the largest with a sign, and some that are large without being
    impossible."""
    largest = 2**bits - 1
    some = 2 ** (3 * bits // 4)
    return (largest, largest // 2, some, int(rng.integers(some, largest)), 30_000)[rng.integers(5)]


def _overwritten(
    whole: Whole,
    role: str,
    draw: Callable[[int, np.random.Generator], int],
    rng: np.random.Generator,
) -> bytes:
    """One or two names of fields of that role: one of the fields, or all, with a value drawn.

    Fields that are not there more than once are as likely as those that each frame has: the name
    is drawn, not the field.
    """
    data = whole.data
    by_name: dict[str, list[int]] = {}
    found = fields(whole.kind, data)
    for index, field in enumerate(found):
        if field.role == role:
            by_name.setdefault(field.name, []).append(index)
    names = list(by_name)
    for name in rng.choice(names, int(rng.integers(1, 3)), replace=False):
        same = by_name[str(name)]
        value = draw(found[same[0]].bits, rng)
        for index in same if rng.random() < 0.5 else [same[rng.integers(len(same))]]:
            data = found[index].write(data, value)
    return data
