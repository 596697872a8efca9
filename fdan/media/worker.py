"""A process that decodes media files: `python -m fdan.media.worker`, started by pool.py.

Its stdin is a multiprocessing connection. The first message holds the settings and the seconds that
a file may take; the answer is None, or the reason why the process cannot start. Each further
message is a path, answered with its Pixels or a reason (a str). The process ends when the
connection does, and with the exit code OUT_OF_MEMORY when a file needs more memory than it may
take.
"""

import contextlib
import math
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import numpy as np

from fdan.errors import DataError, FdanError
from fdan.files import first_line
from fdan.machine.libraries import load_library
from fdan.media.pixels import Pixels, Settings, read_pixels
from fdan.media.spectrogram import SpectrogramSettings, log_mel
from fdan.media.speech_statistics import speech_statistics

OUT_OF_MEMORY: Final = 77
MEMORY_MB: Final = 2000
"""Memory that decoding a file may take, in MB (10^6 bytes). A film in 8K takes half of it, an hour
of stereo sound two thirds (measured); a damaged header can ask for any number."""

_GRACE_S: Final = 3


def main() -> None:
    # Ctrl-C reaches the whole group: the parent decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = Connection(0)
    with contextlib.suppress(EOFError):  # the parent has ended, or wants no more
        settings, timeout_s = parent.recv()
        parent.send(_prepare(settings))
        _bound_memory()
        while True:
            path = parent.recv()
            # The parent ends a process that hangs; this ends it where the parent is gone. The
            # signal's default action needs no Python, so it also ends a hanging decoder.
            signal.alarm(math.ceil(timeout_s) + _GRACE_S)
            parent.send(_answer(path, settings))
            signal.alarm(0)


def _prepare(settings: Settings) -> str | None:
    """Import what decoding needs; return the reason if something is missing."""
    speech = isinstance(settings, SpectrogramSettings)
    for module in ("av", "soundfile", "librosa") if speech else ("av", "cv2"):
        try:
            load_library(module)
        except DataError as error:
            return f"decoding {'speech' if speech else 'faces'} {error}"
    if not isinstance(settings, SpectrogramSettings):
        sys.modules["cv2"].setNumThreads(1)  # files are decoded side by side
    else:
        # What librosa loads when it is first used is not part of the first file's time.
        try:
            log_mel(np.zeros(settings.n_fft, np.float32), settings)
            speech_statistics(np.zeros(settings.n_fft, np.float32), settings.sample_rate)
        except Exception as error:
            return f"librosa makes no spectrograms here: {first_line(error)}"
    return None


def _bound_memory() -> None:
    """Allow this process MEMORY_MB more than it has now. Linux enforces it; on other systems the
    machine's own memory is the bound."""
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
        return read_pixels(path, settings, statistics=True)
    except FdanError as error:
        return str(error)
    except Exception as error:  # one bad file of many must not end the run
        if _out_of_memory(error):
            # A new process tries again: earlier files may have left too little memory.
            raise SystemExit(OUT_OF_MEMORY) from error
        return f"cannot be decoded ({type(error).__name__}: {first_line(error)})"


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, or OpenCV in its own way, was refused memory."""
    cv2 = sys.modules.get("cv2")  # for faces
    if cv2 is not None and isinstance(error, cv2.error):
        return getattr(error, "code", 0) == cv2.Error.StsNoMem or "bad_alloc" in str(error)
    return isinstance(error, MemoryError)


if __name__ == "__main__":
    main()
