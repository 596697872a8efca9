"""The demo corpus: synthetic voices and faces, written as real WAV and AVI files.

It stands in for a corpus that nobody may ship. In both modalities the emotion lies in what carries
it in people (prosody; the geometry of brows, eyes and mouth), graded and blurred from utterance to
utterance, while speaker, channel and noise change what a network sees without depending on the
emotion. The layout is SAVEE's (`AudioData/DC/a01.wav`, `VisualData/DC/a01.avi`).

The voice is a source-filter synthesiser: jittered glottal pulses and breath, shaped frame by frame
by formants. The face is drawn, lit and filmed; its mouth moves with the voice.
Every file depends on (seed, speaker, emotion, take) alone, so the bytes are the same whatever the
number of processes.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from fdan.corpora.demo.settings import CODES, DemoSettings, speaker_name
from fdan.cpus import cpu_count
from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.files import PROJECT_ROOT

__all__ = ["CODES", "DemoSettings", "generate", "speaker_name"]

MANIFEST: Final = "demo.json"

VERSION: Final = 2
"""Written into demo.json: a corpus made by another version of the generator is another corpus."""

_STALE_S: Final = 24 * 3600.0
"""A corpus is written in seconds to minutes: one begun so long ago was left by a killed process."""


def generate(
    folder: Path,
    *,
    speakers: int = 12,
    takes: int = 6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Write the corpus to a folder, which is complete or absent.

    Args:
        folder: Target folder; returned at once if it holds the corpus already.
        speakers: Number of speakers.
        takes: Number of utterances per emotion and speaker.
        seed: Seed of everything in the corpus.
        progress: Callback, given (utterances done, of how many).
        workers: Number of processes, one a core by default; with 1, none is started.

    Raises:
        ConfigError: A setting is out of its range.
        DataError: The folder holds something else, such as a demo corpus with other settings.
    """
    settings = DemoSettings(speakers=speakers, takes=takes, seed=seed)
    folder = Path(folder)
    if _exists(folder, settings):
        return folder
    missing = [above for above in folder.parents if not above.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(folder)
        try:
            _write_all(partial, settings, progress or (lambda done, total: None), workers)
            text = json.dumps(_manifest(settings), indent=2) + "\n"
            (partial / MANIFEST).write_text(text, encoding="utf-8")
            partial.chmod(0o755)  # mkdtemp's 0700 would keep other users of a machine out
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # they hold the corpus, or what others put there
                for above in missing:
                    above.rmdir()
    except OSError as error:
        # Another process may have finished the same corpus meanwhile.
        if not _exists(folder, settings):
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
    if not (folder / MANIFEST).is_file():
        if any(folder.iterdir()):
            raise DataError(f"{folder}: holds other files; choose another folder")
        return False
    try:
        stored = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    wanted = _manifest(settings)
    if stored == wanted:
        return True
    if not isinstance(stored, dict):
        raise DataError(f"{folder / MANIFEST}: unreadable; choose another folder")
    other = ", ".join(
        f"{name} {stored.get(name)} (asked for: {value})"
        for name, value in wanted.items()
        if stored.get(name) != value
    )
    raise DataError(f"{folder}: holds a demo corpus with {other}; choose another folder")


def _write_all(
    folder: Path,
    settings: DemoSettings,
    progress: Callable[[int, int], None],
    workers: int | None,
) -> None:
    total = settings.speakers * len(EMOTIONS) * settings.takes
    for modality in ("AudioData", "VisualData"):
        for speaker in range(settings.speakers):
            (folder / modality / speaker_name(speaker)).mkdir(parents=True)
    # A process that writes fewer utterances than this costs more to start than it saves.
    workers = min(workers or cpu_count(), -(-total // 40))
    if workers > 1:
        counts = _write_in_processes(folder, settings, workers)
    else:
        # Imported late: it needs OpenCV, which is not needed for training from prepared stores.
        from fdan.corpora.demo.cells import write_part

        counts = write_part(folder, settings)
    done = 0
    with contextlib.closing(counts):  # ends the processes, whatever `progress` raises
        progress(done, total)
        for count in counts:
            done += count
            progress(done, total)
    if done != total:
        raise OSError(f"a process ended after {done} of {total} utterances; see above for why")


def _write_in_processes(
    folder: Path, settings: DemoSettings, parts: int
) -> Generator[int, None, None]:
    """Write the corpus with `parts` processes; yields the number of utterances written since.

    Plain subprocesses: what multiprocessing spawns imports the caller's main script, torch with
    it, and fork is unsafe beside torch's threads. All of them write their counts into one pipe.
    """
    ours, theirs = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    package = str(PROJECT_ROOT)
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": search}
    try:
        with open(ours, encoding="ascii") as counts:  # noqa: PTH123 (a descriptor, not a path)
            try:
                for part in range(parts):
                    task = json.dumps([str(folder), settings.as_dict(), part, parts])
                    command = [sys.executable, "-m", "fdan.corpora.demo", task]
                    processes.append(subprocess.Popen(command, stdout=theirs, env=environment))
            finally:
                os.close(theirs)  # so that the pipe ends with the last of them
            yield from map(int, counts)
    finally:
        for process in processes:
            process.kill()
            process.wait()
