"""Where in a media file's headers its lengths and its format are written.

A field that says how much there is (bytes, samples, frames, pixels, entries) is a length; one that
says what it is (magic, codec, rate, channels) is a format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

LENGTH: Final = "length"
FORMAT: Final = "format"


@dataclass(frozen=True)
class Field:
    """An unsigned number in a file: `bits` wide, from bit `start` on, counted from the file's
    first. Little-endian ones are whole bytes. Fields that say the same have the same name."""

    name: str
    role: str
    start: int
    bits: int
    order: str = "big"

    def write(self, data: bytes, value: int) -> bytes:
        """The file with this number in it; bits that do not fit are dropped."""
        value &= (1 << self.bits) - 1
        if self.order == "little":
            at, size = self.start // 8, self.bits // 8
            return data[:at] + value.to_bytes(size, "little") + data[at + size :]
        first, last = self.start // 8, -(-(self.start + self.bits) // 8)
        shift = 8 * last - self.start - self.bits
        kept = int.from_bytes(data[first:last], "big") & ~(((1 << self.bits) - 1) << shift)
        return data[:first] + (kept | value << shift).to_bytes(last - first, "big") + data[last:]


def fields(kind: str, data: bytes) -> list[Field]:
    """The header fields of a whole file of a kind: wav, flac, avi, mp4 or jpg."""
    found = [field for field in _FIELDS[kind](data) if field.start + field.bits <= 8 * len(data)]
    assert {LENGTH, FORMAT} <= {field.role for field in found}, kind
    return found


# --- RIFF: wav and avi

# Chunks of a film that are listed, one a frame; more say nothing new.
_CHUNKS: Final = 40
# Name, role, byte offset in the chunk's content, bits.
_RIFF_FIELDS: Final = {
    b"fmt ": [
        ("codec", FORMAT, 0, 16),
        ("channels", FORMAT, 2, 16),
        ("sample rate", FORMAT, 4, 32),
        ("byte rate", FORMAT, 8, 32),
        ("block align", FORMAT, 12, 16),
        ("bits a sample", FORMAT, 14, 16),
    ],
    b"avih": [
        ("microseconds a frame", FORMAT, 0, 32),
        ("flags", FORMAT, 12, 32),
        ("frames", LENGTH, 16, 32),
        ("streams", FORMAT, 24, 32),
        ("buffer", LENGTH, 28, 32),
        ("side", LENGTH, 32, 32),
        ("side", LENGTH, 36, 32),
    ],
    b"strh": [
        ("type", FORMAT, 0, 32),
        ("handler", FORMAT, 4, 32),
        ("scale", FORMAT, 20, 32),
        ("rate", FORMAT, 24, 32),
        ("stream length", LENGTH, 32, 32),
        ("sample size", LENGTH, 44, 32),
    ],
    b"strf": [
        ("header size", LENGTH, 0, 32),
        ("picture side", LENGTH, 4, 32),
        ("picture side", LENGTH, 8, 32),
        ("bits a pixel", FORMAT, 14, 16),
        ("compression", FORMAT, 16, 32),
        ("picture bytes", LENGTH, 20, 32),
    ],
}


def _riff(data: bytes) -> Iterator[Field]:
    yield Field("magic", FORMAT, 0, 32)
    yield Field("RIFF size", LENGTH, 32, 32, "little")
    yield Field("RIFF type", FORMAT, 64, 32)
    at, chunks = 12, 0
    while at + 8 <= len(data) and chunks < _CHUNKS:
        name, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        yield Field(f"{name!r} size", LENGTH, 8 * at + 32, 32, "little")
        for what, role, offset, bits in _RIFF_FIELDS.get(name, []):
            yield Field(what, role, 8 * (at + 8 + offset), bits, "little")
        at += 12 if name == b"LIST" else 8 + size + size % 2
        chunks += 1


# --- FLAC


def _flac(data: bytes) -> Iterator[Field]:
    yield Field("magic", FORMAT, 0, 32)
    info = 8 * 8  # STREAMINFO's content, after the magic and its own header
    for name, role, offset, bits in (
        ("smallest block", LENGTH, 0, 16),
        ("largest block", LENGTH, 16, 16),
        ("smallest frame", LENGTH, 32, 24),
        ("largest frame", LENGTH, 56, 24),
        ("sample rate", FORMAT, 80, 20),
        ("channels", FORMAT, 100, 3),
        ("bits a sample", FORMAT, 103, 5),
        ("total samples", LENGTH, 108, 36),
    ):
        yield Field(name, role, info + offset, bits)
    at, last = 4, False
    while not last and at + 4 <= len(data):
        last = bool(data[at] & 0x80)
        yield Field("block type", FORMAT, 8 * at + 1, 7)
        yield Field("block length", LENGTH, 8 * at + 8, 24)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")


# --- MP4

_CONTAINERS: Final = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta")
# Name, role, byte offset in the box's content (after size and type), bits.
_MP4_FIELDS: Final = {
    b"mvhd": [("timescale", FORMAT, 12, 32), ("duration", LENGTH, 16, 32)],
    b"mdhd": [("timescale", FORMAT, 12, 32), ("duration", LENGTH, 16, 32)],
    b"tkhd": [
        ("duration", LENGTH, 20, 32),
        ("track side", LENGTH, 76, 32),
        ("track side", LENGTH, 80, 32),
    ],
    b"hdlr": [("handler", FORMAT, 8, 32)],
    b"elst": [("entries", LENGTH, 4, 32), ("edit length", LENGTH, 8, 32)],
    b"stts": [
        ("entries", LENGTH, 4, 32),
        ("samples a run", LENGTH, 8, 32),
        ("ticks a sample", FORMAT, 12, 32),
    ],
    b"stss": [("entries", LENGTH, 4, 32)],
    b"ctts": [("entries", LENGTH, 4, 32)],
    b"stsc": [("entries", LENGTH, 4, 32), ("samples a chunk", LENGTH, 12, 32)],
    b"stsz": [("sample size", LENGTH, 4, 32), ("samples", LENGTH, 8, 32)],
    b"stco": [("entries", LENGTH, 4, 32), ("offset", LENGTH, 8, 32)],
    b"stsd": [("entries", LENGTH, 4, 32), ("entry size", LENGTH, 8, 32), ("codec", FORMAT, 12, 32)],
}
# In the description of a track, after the entry's own size and type.
_ENTRY_FIELDS: Final = {
    b"avc1": [("picture side", LENGTH, 24, 16), ("picture side", LENGTH, 26, 16)],
    b"mp4a": [
        ("channels", FORMAT, 16, 16),
        ("bits a sample", FORMAT, 18, 16),
        ("sample rate", FORMAT, 24, 32),
    ],
}


def _mp4(data: bytes) -> Iterator[Field]:
    yield from _boxes(data, 0, len(data))


def _boxes(data: bytes, at: int, end: int) -> Iterator[Field]:
    while at + 8 <= end:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield Field(f"{name!r} size", LENGTH, 8 * at, 32)
        yield Field(f"{name!r} type", FORMAT, 8 * at + 32, 32)
        for what, role, offset, bits in _MP4_FIELDS.get(name, []):
            yield Field(f"{name!r} {what}", role, 8 * (at + 8 + offset), bits)
        if name == b"stsd":
            entry = at + 16
            for what, role, offset, bits in _ENTRY_FIELDS.get(data[entry + 4 : entry + 8], []):
                yield Field(what, role, 8 * (entry + 8 + offset), bits)
        if name in _CONTAINERS:
            yield from _boxes(data, at + 8, at + size)
        at += max(size, 8)


# --- JPEG


def _jpg(data: bytes) -> Iterator[Field]:
    yield Field("magic", FORMAT, 0, 16)
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        yield Field("marker", FORMAT, 8 * at + 8, 8)
        yield Field("segment length", LENGTH, 8 * at + 16, 16)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            for name, role, offset, bits in (
                ("precision", FORMAT, 4, 8),
                ("side", LENGTH, 5, 16),
                ("side", LENGTH, 7, 16),
                ("components", FORMAT, 9, 8),
                ("sampling", FORMAT, 11, 8),
                ("quantisation table", FORMAT, 12, 8),
            ):
                yield Field(name, role, 8 * (at + offset), bits)
        if marker == 0xDA:  # what follows is the picture
            return
        at += 2 + size


_FIELDS: Final[dict[str, Callable[[bytes], Iterator[Field]]]] = {
    "wav": _riff,
    "avi": _riff,
    "flac": _flac,
    "mp4": _mp4,
    "jpg": _jpg,
}
