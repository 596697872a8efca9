"""The demo corpus: synthetic voices and faces, written as real WAV and AVI files.

It stands in for a corpus that nobody may ship. In both modalities the emotion lies in what carries
it in people (prosody and its course from the first syllable to the last; the geometry of brows,
eyes and mouth), graded and blurred from utterance to utterance, while speaker, channel and noise
change what a network sees without depending on the emotion. As in films, some emotions are heard
far more rarely than others, while each is seen equally often. The layout is SAVEE's
(`AudioData/DC/a01.wav`, `VisualData/DC/a01.avi`).

Every file depends on (seed, speaker, emotion, take) alone, so the bytes are the same whatever the
number of processes.
"""

import contextlib
import dataclasses
import errno
import glob
import json
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Final

from fdan.config import Config, option
from fdan.corpora import savee
from fdan.corpora.listing import MANIFEST
from fdan.emotions import EMOTIONS
from fdan.errors import DataError, DiskFull
from fdan.machine.child_process import ErrorFile, module_command, module_environment
from fdan.machine.cpus import cpu_count

CODES: Final = {emotion: code for code, emotion in savee.CODES.items()}  # SAVEE's file codes

VERSION: Final = 3
"""Written into demo.json: a corpus made by another version of the generator is another corpus."""

_SPOKEN: Final = {
    "anger": 1.0,
    "disgust": 0.5,
    "fear": 0.5,
    "happiness": 5 / 3,
    "neutral": 4.0,
    "sadness": 2 / 3,
    "surprise": 0.5,
}
"""Utterances of an uneven corpus, in parts of its filmed ones: mostly neutral ones, as in MELD."""

_STALE_S: Final = 24 * 3600.0
"""A corpus is written in seconds to minutes: one begun so long ago was left by a killed process."""


@dataclasses.dataclass(frozen=True)
class DemoSettings(Config):
    """What the bytes of a demo corpus depend on."""

    speakers: int = option(16, "speakers", low=1, high=676)
    takes: int = option(6, "films of each emotion and speaker", low=1, high=24)
    seed: int = option(0, "seed of everything in the corpus", low=0)
    uneven: bool = option(
        True, "sounds of some emotions are far rarer than of others; else each film has its sound"
    )

    def sounds(self, emotion: str) -> int:
        """Utterances of an emotion of each speaker that are heard; `takes` of them are seen."""
        return max(1, round(_SPOKEN[emotion] * self.takes)) if self.uneven else self.takes

    def utterances(self, emotion: str) -> int:
        """Utterances of an emotion of each speaker that are heard, seen or both."""
        return max(self.takes, self.sounds(emotion))

    @property
    def total(self) -> int:
        """Utterances of the whole corpus."""
        return self.speakers * sum(map(self.utterances, EMOTIONS))


def speaker_name(index: int) -> str:
    """Two capital letters, different for each of the 676 indices.

    >>> [speaker_name(index) for index in (0, 1, 26)]
    ['AD', 'BI', 'AE']
    """
    round_, first = divmod(index, 26)
    return chr(65 + first) + chr(65 + (5 * first + 3 + round_) % 26)


def generate(
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
    **settings: int,
) -> Path:
    """Write the corpus to a folder, which is complete or absent. ConfigError: a setting is out of
    its range. DataError: the folder holds something else, such as one with other settings.

    Args:
        folder: Target folder; returned at once if it holds the corpus already.
        progress: Callback, given (utterances done, of how many).
        workers: Number of processes, one a core by default.
        settings: Those of DemoSettings that are not their defaults.
    """
    chosen = DemoSettings.from_mapping(settings)
    if _exists(folder, chosen):
        return folder
    missing = [above for above in folder.parents if not above.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(folder)
        try:
            _write_all(partial, chosen, progress or (lambda done, total: None), workers)
            text = json.dumps(_manifest(chosen), indent=2) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            # mkdtemp's 0700 would keep other accounts out.
            partial.chmod(stat.S_IMODE((partial / "AudioData").stat().st_mode))
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # they hold the corpus, or what others put there
                for above in missing:
                    above.rmdir()
    except OSError as error:
        # Another process may have finished the same corpus meanwhile.
        if not _exists(folder, chosen):
            reason = error.strerror or error
            raise DataError(f"{folder}: the demo corpus cannot be written: {reason}") from error
    return folder


def _partial(folder: Path) -> Path:
    """A folder of this process's own beside `folder`. Removes what killed processes left."""
    prefix = f".{folder.name}.partial-"
    for stale in folder.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):  # another process may be removing it, too
            if time.time() - stale.stat().st_mtime > _STALE_S:
                shutil.rmtree(stale)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))


def _manifest(settings: DemoSettings) -> dict[str, object]:
    return {"corpus": "demo", "version": VERSION, **settings.as_dict()}


def _exists(folder: Path, settings: DemoSettings) -> bool:
    """True: this very corpus. False: nothing is in the way. Anything else is a DataError."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; choose another folder for the demo corpus")
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if any(folder.iterdir()):
            raise DataError(f"{folder}: holds other files; choose another folder")
        return False
    try:
        stored = dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError(f"{manifest}: unreadable; choose another folder") from None
    other = ", ".join(
        f"{name} {stored.get(name)} (asked for: {value})"
        for name, value in _manifest(settings).items()
        if stored.get(name) != value
    )
    if other:
        raise DataError(f"{folder}: holds a demo corpus with {other}; choose another folder")
    return True


def _write_all(
    folder: Path,
    settings: DemoSettings,
    progress: Callable[[int, int], None],
    workers: int | None,
) -> None:
    """Write the corpus in several processes, `workers` at most.

    Plain subprocesses: what multiprocessing spawns imports the caller's main script, torch with
    it, and fork is unsafe beside torch's threads. All of them write their counts into one pipe.
    """
    total = settings.total
    for modality in ("AudioData", "VisualData"):
        for speaker in range(settings.speakers):
            (folder / modality / speaker_name(speaker)).mkdir(parents=True)
    # A process that writes fewer utterances than this costs more to start than it saves.
    parts = min(workers or cpu_count(), -(-total // 40))
    ours, theirs = os.pipe()
    errors = ErrorFile()
    processes: list[subprocess.Popen[bytes]] = []
    done = 0
    try:
        with open(ours, encoding="ascii") as counts:  # noqa: PTH123 (a descriptor, not a path)
            try:
                for part in range(parts):
                    task = json.dumps([str(folder), settings.as_dict(), part, parts])
                    command = [*module_command("fdan.corpora.demo"), task]
                    process = subprocess.Popen(
                        command, stdout=theirs, stderr=errors.fileno(), env=module_environment()
                    )
                    processes.append(process)
            finally:
                os.close(theirs)  # so that the pipe ends with the last of them
            progress(done, total)
            for count in counts:
                done += int(count)
                progress(done, total)
    finally:  # whatever `progress` raises
        for process in processes:
            process.kill()
            process.wait()
        reason = errors.last_line().removeprefix("error: ")
        errors.close()
    if done != total:
        if os.strerror(errno.ENOSPC) in reason:
            raise DiskFull(folder)
        raise DataError(f"{folder}: a process ended after {done} of {total} utterances: {reason}")


class BackgroundDemo(contextlib.AbstractContextManager["BackgroundDemo"]):
    """Writes the demo corpus to `folder`, or finds it there, from when this is made, while the
    process does something else, such as imports that keep one core busy for seconds.

    A context manager: leaving it before the corpus is whole cancels it, and nothing stays behind.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self.folder = folder
        self._workers = workers
        self._cancelled = False
        # Not the thread's join: in Python 3.11, one that Ctrl-C interrupts takes the thread for
        # ended from then on.
        self._written: Future[Path] = Future()
        self._progress: Callable[[int, int], None] = lambda done, total: None
        threading.Thread(target=self._write, name="demo corpus", daemon=True).start()

    def wait(self, progress: Callable[[int, int], None]) -> None:
        """Return when the corpus is there, calling `progress` with (utterances done, of how many)
        meanwhile. Raises what `generate` does."""
        self._progress = progress
        self._written.result()

    def __exit__(self, *_: object) -> None:
        self._cancelled = True
        wait([self._written])

    def _write(self) -> None:
        try:
            folder = generate(self.folder, progress=self._report, workers=self._workers)
            self._written.set_result(folder)
        except BaseException as error:  # `wait` raises it
            self._written.set_exception(error)

    def _report(self, done: int, total: int) -> None:
        if self._cancelled:
            raise CancelledError
        self._progress(done, total)
