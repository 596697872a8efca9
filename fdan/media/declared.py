"""Where a sound file ends by its own account, and whether more lies behind that: another file that
was appended, or samples that its header leaves out."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

_BLOCK: Final = 2**20  # bytes that are looked through at once

_WAVE: Final = (b"RIFF", b"RF64", b"BW64")
_AU: Final = (b".snd", b"dns.")
_MAGICS: Final = (*_WAVE, b"RIFX", b"FORM", b"caff", *_AU, b"OggS", b"fLaC")


@dataclass(frozen=True)
class _Chunks:
    """How a format writes the parts that its files are made of, one after the other."""

    start: int  # where the first part begins
    head: int  # bytes of a part's head
    name: slice  # of the head
    length: slice  # of the head
    order: Literal["little", "big"] = "big"
    even: bool = False  # whether an odd part is followed by an empty byte
    more: int = 0  # bytes of a part that its length does not count
    plain: bool = True  # whether the names of parts are printable
    firsts: tuple[bytes, ...] = _MAGICS  # what another file begins with
    once: tuple[bytes, ...] = ()  # parts of which a second one is another file's


_IFF: Final = _Chunks(12, 8, slice(4), slice(4, 8), even=True)
_RIFF: Final = _Chunks(12, 8, slice(4), slice(4, 8), "little", even=True)
_CAF: Final = _Chunks(8, 12, slice(4), slice(4, 12))
_FLV: Final = _Chunks(13, 11, slice(1), slice(1, 4), more=4, plain=False, firsts=(b"F",))
# The length of a part of an MP4 or ASF file counts its head.
_MP4: Final = _Chunks(
    0, 8, slice(4, 8), slice(4), more=-8, plain=False, firsts=(), once=(b"ftyp", b"moov")
)
_ASF_HEAD: Final = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF: Final = _Chunks(
    0, 24, slice(16), slice(16, 24), "little", more=-24, plain=False, firsts=(), once=(_ASF_HEAD,)
)

_LONG: Final = 2**32 - 1  # a length of 4 bytes that stands elsewhere, or is not known
_MP4_BEGINS: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_SOUND: Final = (b"data", b"SSND")
_SIZES: Final = b"ds64"
"""Part of a wav file of more than 4 GiB that has the length of its sound in full."""


def goes_on(path: Path) -> bool:
    """Whether a file goes on behind the end that it declares. Kinds of which all is read to the
    last byte, whatever a header says, are not looked at: of them nothing is left out."""
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] in _AU:
            return _au_goes_on(file, head)
        chunks = _chunks(head)
        return chunks is not None and _parts_go_on(file, chunks, path.stat().st_size)


def _chunks(head: bytes) -> _Chunks | None:
    magic, kind = head[:4], head[8:12]
    if kind == b"WAVE":
        return _RIFF if magic in _WAVE else _IFF if magic == b"RIFX" else None
    if magic == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return _IFF
    if magic == b"caff":
        return _CAF
    if head == _ASF_HEAD:
        return _ASF
    if head[4:8] in _MP4_BEGINS:
        return _MP4
    return _FLV if magic[:3] == b"FLV" else None


def _au_goes_on(file: BinaryIO, head: bytes) -> bool:
    order: Literal["little", "big"] = "big" if head[:4] == b".snd" else "little"
    offset, length = int.from_bytes(head[4:8], order), int.from_bytes(head[8:12], order)
    if length == _LONG:  # not known, and read to the end
        return False
    file.seek(offset + length)
    return _holds_more(file)


def _parts_go_on(file: BinaryIO, chunks: _Chunks, size: int) -> bool:
    seen, long = set[bytes](), _LONG
    file.seek(chunks.start)
    while len(head := file.read(chunks.head)) == chunks.head:
        name, length = head[chunks.name], int.from_bytes(head[chunks.length], chunks.order)
        if name in chunks.firsts or name in seen:
            return True
        if name in chunks.once:
            seen.add(name)
        elif chunks.plain and not (name.isascii() and name.decode("ascii").isprintable()):
            file.seek(-len(head), 1)
            return _holds_more(file)
        if name == _SIZES:
            sizes = file.read(16)
            long = int.from_bytes(sizes[8:], "little")
            file.seek(-len(sizes), 1)
        elif name in _SOUND and length == _LONG:
            length = long
        elif chunks is _MP4 and length == 1:  # it stands in full behind the head
            length = int.from_bytes(file.read(8), "big") - 8
        if name in _SOUND and not length:  # never completed, and read to the end
            return False
        rest = length + chunks.more + (length % 2 if chunks.even else 0)
        if rest < 0 or rest > size:  # to the end of the file
            return False
        file.seek(rest, 1)
    return False


def _holds_more(file: BinaryIO) -> bool:
    """Whether the rest of a file is anything but padding."""
    return any(block.strip(b"\0") for block in iter(lambda: file.read(_BLOCK), b""))
