"""Media containers that FFmpeg opens, with its errors in plain words."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fdan.errors import DataError

SEVERAL_STREAMS: Final = {
    "audio": "several sound tracks, the default one taken",
    "video": "several picture tracks, the default one taken",
}


def find_stream(container: Any, kind: str, counts: Counter[str]) -> Any:
    """The stream that a player would show: not the first one, but the default one, and a cover
    picture least of all. None where there is none.

    Args:
        container: An open container.
        kind: "audio" or "video".
        counts: Counter, which is told if there are several.
    """
    covers = [stream for stream in container.streams.video if _is_cover(stream)]
    streams = [stream for stream in getattr(container.streams, kind) if stream not in covers]
    if len(streams) > 1:
        counts[SEVERAL_STREAMS[kind]] += 1
    best = container.streams.best(kind)
    return best if best in streams else next(iter(streams), None)


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """An av.container.InputContainer, closed at the end. DataError: FFmpeg cannot open it, or fails
    inside the block."""
    import av

    av.logging.set_level(None)
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        words = {
            av.error.InvalidDataError: "damaged, or of a kind that is not read here",
            av.error.EOFError: "it breaks off too early",
            av.error.PatchWelcomeError: "its coding is not known here",
            # Mostly refused by FFmpeg itself, without asking the system.
            av.error.MemoryError: "its header asks for more memory than it can have",
        }
        reason = words.get(type(error), error.strerror or type(error).__name__)
        raise DataError(f"cannot be decoded ({reason})") from error
