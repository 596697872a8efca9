"""A process that decodes media files: `python -m fdan.media.worker`, started by workers.py.

It reads pickled messages on stdin and answers on stdout, each with its length before it: first
the settings and the seconds that a file may take, answered with None or the reason why it cannot
start; then lists of paths, answered with one Pixels or one reason (a str) a path. It ends when
stdin does.
"""

from __future__ import annotations

import importlib
import math
import os
import pickle
import signal
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from fdan.errors import FdanError
from fdan.media.pixels import Pixels, Settings, read_pixels
from fdan.media.spectrogram import SpectrogramSettings

LENGTH: Final = struct.Struct("<Q")
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
        needed |= {"soundfile": "soundfile", "soxr": "soxr"}
    for module, package in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            return f"decoding media needs {module} ({error}): pip install '{package}'"
    sys.modules["cv2"].setNumThreads(1)  # files are decoded side by side
    return None


def _answer(path: Path, settings: Settings) -> Pixels | str:
    try:
        return read_pixels(path, settings)
    except FdanError as error:
        return str(error)
    except Exception as error:  # one bad file of many must not end the run
        return f"cannot be decoded ({type(error).__name__}: {str(error).splitlines()[:1]})"


def _send(stream: BinaryIO | Any, message: Any) -> None:
    data = memoryview(pickle.dumps(message, protocol=5))
    for part in (memoryview(LENGTH.pack(len(data))), data):
        sent = 0
        while sent < len(part):
            sent += stream.write(part[sent:])


def _receive(stream: BinaryIO) -> Any:
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    return pickle.loads(stream.read(LENGTH.unpack(header)[0]))


if __name__ == "__main__":
    main()
