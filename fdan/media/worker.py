"""A process that decodes media files: `python -m fdan.media.worker`, started by workers.py.

It reads pickled messages on stdin and answers on stdout, each with its length before it: first
the settings and the seconds that a file may take, answered with None or the reason why it cannot
start; then lists of paths, answered with one Pixels or one reason (a str) a path. It ends when
stdin does, and with the exit code OUT_OF_MEMORY when a file needs more memory than it may take.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from fdan.errors import FdanError
from fdan.media.pixels import Pixels, Settings, read_pixels
from fdan.media.spectrogram import SpectrogramSettings

LENGTH: Final = struct.Struct("<Q")
OUT_OF_MEMORY: Final = 77
# What decoding a file may take, in MB (10^6 bytes). A film in 8K takes half of it, an hour of
# stereo sound two thirds (measured); a damaged header can ask for any number.
MEMORY_MB: Final = 2000
_GRACE_S: Final = 3


def main() -> None:
    # Libraries that print must not print into the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Ctrl-C reaches the whole group: the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = sys.stdin.buffer
    settings, timeout_s = _receive(requests)
    reason = _prepare(settings)
    _send(answers, reason)
    if reason:
        return
    _bound_memory()
    while (paths := _receive(requests)) is not None:
        for path in paths:
            # The parent ends a process that hangs; this ends it where the parent is gone. The
            # signal's default action needs no Python, so it also ends a hanging decoder.
            signal.alarm(math.ceil(timeout_s) + _GRACE_S)
            answer = _answer(Path(path), settings)
            signal.alarm(0)
            _send(answers, answer)


def _prepare(settings: Settings) -> str | None:
    """Import what decoding needs; the reason if it cannot be had."""
    needed = {"cv2": "opencv-python<5", "av": "av"}
    if isinstance(settings, SpectrogramSettings):
        # librosa loads its parts when they are first used: this one brings all that takes time.
        needed |= {"soundfile": "soundfile", "librosa.core.spectrum": "librosa"}
    for module, package in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"decoding media needs {package} ({error}): pip install '{package}'"
    sys.modules["cv2"].setNumThreads(1)  # files are decoded side by side
    return None


def _bound_memory() -> None:
    """From here on this process gets MEMORY_MB more and no byte beyond. Linux keeps to it; other
    systems leave it to the machine's own memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = pages * resource.getpagesize() + MEMORY_MB * 10**6
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _answer(path: Path, settings: Settings) -> Pixels | str:
    try:
        return read_pixels(path, settings)
    except FdanError as error:
        return str(error)
    except Exception as error:  # one bad file of many must not end the run
        if _out_of_memory(error):
            # A new process, so that what earlier files left behind is not this one's fault.
            raise SystemExit(OUT_OF_MEMORY) from error
        first_line = (str(error).splitlines() or [""])[0]
        return f"cannot be decoded ({type(error).__name__}: {first_line})"


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, or OpenCV in its own words, was refused memory."""
    cv2 = sys.modules["cv2"]
    if isinstance(error, cv2.error):
        return getattr(error, "code", 0) == cv2.Error.StsNoMem or "bad_alloc" in str(error)
    return isinstance(error, MemoryError)


def _send(stream: BinaryIO | Any, message: Any) -> None:
    data = pickle.dumps(message, protocol=5)
    left = memoryview(LENGTH.pack(len(data)) + data)  # in one piece: who reads is woken once
    while left:
        left = left[stream.write(left) :]


def _receive(stream: BinaryIO) -> Any:
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    return pickle.loads(stream.read(LENGTH.unpack(header)[0]))


if __name__ == "__main__":
    main()
