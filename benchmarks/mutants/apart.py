"""`prepare` in a process of its own, watched: what it gave, what each file cost, how it ended.

The process that prepares may itself crash, hang or eat memory; that is what is looked for.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final
from unittest import mock

from fdan.corpora import Source
from fdan.data.prepare import prepare
from fdan.data.store import PrepareProgress
from fdan.errors import FdanError
from fdan.media.faces import FaceSettings
from fdan.media.pixels import Pixels, Settings
from fdan.media.pool import DecoderProcess
from fdan.media.spectrogram import SpectrogramSettings

# Small images: what is measured is decoding.
_SETTINGS: Final[dict[str, Settings]] = {
    "acoustic": SpectrogramSettings(spectrogram_size=32),
    "visual": FaceSettings(face_size=32),
}
# prepare hears of files eight at a time, and a lost one is tried twice: it hangs when it tells
# nothing for longer than that may take.
_SILENT_FILES: Final = 20
_START_S: Final = 60.0


@dataclass
class Cost:
    """What one file took, its second try included where it had one."""

    seconds: float = 0.0
    peak_mb: float = 0.0
    ended: bool = False
    """Whether its process crashed or was ended."""


@dataclass
class Outcome:
    """What became of one `prepare`. Paths are below the corpus's root."""

    rows: int = 0
    """Files that prepare says it was given."""
    read: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    """The line of the FdanError that it ended with."""
    crash: str = ""
    """The traceback or the signal that it ended with."""
    hung: bool = False
    costs: dict[str, Cost] = field(default_factory=dict)
    seconds: float = 0.0
    peak_mb: float = 0.0
    """Of the process that prepares; those that decode are in `costs`."""


def prepare_apart(source: Source, stores: Path, timeout_s: float) -> Outcome:
    """Prepare a source below the folder `stores`, in a new process.

    timeout_s: seconds that prepare gives a file.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, source, stores, timeout_s))
    start = time.monotonic()
    child.start()
    theirs.close()
    outcome = _listen(ours, _START_S + _SILENT_FILES * timeout_s)
    if outcome.hung:
        child.kill()
    child.join()
    if not outcome.crash and child.exitcode and not outcome.hung:
        outcome.crash = f"the process ended with exit code {child.exitcode}"
    outcome.seconds = time.monotonic() - start
    return outcome


def _listen(ours: Connection, silence_s: float) -> Outcome:
    """The outcome, or that there is none: nothing heard for so many seconds, or the end."""
    try:
        while ours.poll(silence_s):
            if (heard := ours.recv()) is not None:
                assert isinstance(heard, Outcome)
                return heard
    except EOFError:
        return Outcome(crash="the process ended")
    return Outcome(hung=True)


def _child(theirs: Connection, source: Source, stores: Path, timeout_s: float) -> None:
    outcome = Outcome()

    def tell(progress: PrepareProgress) -> None:
        theirs.send(None)

    try:
        with _observed(source.path, outcome.costs):
            settings = _SETTINGS[source.modality]
            store = prepare(source, settings, stores, progress=tell, timeout_s=timeout_s)
        outcome.rows = store.counts["files"]
        outcome.read = sorted(set(store.files))
        outcome.unreadable = [(entry["path"], entry["reason"]) for entry in store.unreadable]
        outcome.problems = [(entry["path"], entry["reason"]) for entry in store.problems]
        outcome.passed_over = {
            name: count for name, count in store.counts.items() if name.startswith("passed over")
        }
    except FdanError as error:
        outcome.refused = str(error)
    except Exception:
        outcome.crash = traceback.format_exc()
    outcome.peak_mb = _peak_mb(os.getpid())
    theirs.send(outcome)


@contextmanager
def _observed(root: Path, costs: dict[str, Cost]) -> Iterator[None]:
    """While it lasts, processes that decode write what each file costs into `costs`."""

    class Observed(DecoderProcess):
        def decode(self, path: Path) -> Pixels | str:
            cost = costs.setdefault(path.relative_to(root).as_posix(), Cost())
            assert self._process is not None
            pid = self._process.pid
            start = time.monotonic()
            try:
                answer = super().decode(path)
            except Exception:
                cost.ended = True
                raise
            finally:
                cost.seconds += time.monotonic() - start
                cost.peak_mb = max(cost.peak_mb, _peak_mb(pid))
            # The next file's peak is its own. Where this is not allowed, it is the highest so far.
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            return answer

    with mock.patch("fdan.media.pool.DecoderProcess", Observed):
        yield


def _peak_mb(pid: int) -> float:
    """The most memory that a process held, in MB (10^6 bytes).

    One that has ended no longer tells: then the most that any ended one held, which is no less.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
