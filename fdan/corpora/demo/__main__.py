"""One of the processes that write a demo corpus side by side."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import cv2

from fdan.corpora.demo.cells import write_part
from fdan.corpora.demo.settings import DemoSettings


def _work(task: str) -> None:
    """Write the part that `task` names, a count on stdout for each cell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
    folder, settings, part, parts = json.loads(task)
    try:
        for count in write_part(Path(folder), DemoSettings.from_mapping(settings), part, parts):
            # One write, which the pipe keeps whole; print makes two where PYTHONUNBUFFERED is set.
            os.write(sys.stdout.fileno(), f"{count}\n".encode())
    except OSError as error:  # a full disk, say
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _work(sys.argv[1])
