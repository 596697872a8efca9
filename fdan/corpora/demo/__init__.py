"""The demo corpus: voices and faces of our own making, written as real WAV and AVI files.

It stands in for a corpus that nobody may ship. In both modalities the emotion lies in what carries
it in people (prosody; the geometry of brows, eyes and mouth), graded and blurred from utterance to
utterance, while speaker, channel and noise change what a network sees without saying anything
about the emotion. The layout is SAVEE's (`AudioData/DC/a01.wav`, `VisualData/DC/a01.avi`).

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
from typing import Any, Final

from fdan.corpora.demo.settings import CODES, DemoSettings, speaker_name
from fdan.cpus import cpu_count
from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.files import PROJECT_ROOT

__all__ = ["CODES", "DemoSettings", "generate", "speaker_name"]

MANIFEST: Final = "demo.json"

# Written into demo.json: a corpus made by another version of the generator is another corpus.
VERSION: Final = 2

_STALE_S: Final = 24 * 3600.0
"""A corpus is written in seconds to minutes: what was begun so long ago, nobody writes any more."""


def generate(
    folder: Path,
    *,
    speakers: int = 12,
    takes: int = 6,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Write the corpus to `folder` and return it; at once if it is there already.

    takes: utterances per emotion and speaker. progress: called with (utterances done, of how
    many). workers: processes, one a core unless given; with 1, no process is started.
    The folder is complete or absent. Raises ConfigError for a setting out of its range, DataError
    where the folder holds something else, a demo corpus with other settings included.
    """
    settings = DemoSettings(speakers=speakers, takes=takes, seed=seed)
    folder = Path(folder)
    if _there_already(folder, settings):
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
        if not _there_already(folder, settings):
            reason = error.strerror or error
            raise DataError(f"{folder}: the demo corpus cannot be written: {reason}") from error
    return folder


def _partial(folder: Path) -> Path:
    """A folder of this process's own beside `folder`. Takes away what killed processes left."""
    prefix = f".{folder.name}.partial-"
    for stale in folder.parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):  # another process may be taking it away, too
            if time.time() - stale.stat().st_mtime > _STALE_S:
                shutil.rmtree(stale)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))


def _manifest(settings: DemoSettings) -> dict[str, Any]:
    return {"corpus": "demo", "version": VERSION, **settings.as_dict()}


def _there_already(folder: Path, settings: DemoSettings) -> bool:
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
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    wanted = _manifest(settings)
    if found == wanted:
        return True
    if not isinstance(found, dict):
        raise DataError(f"{folder / MANIFEST}: unreadable; choose another folder")
    other = ", ".join(
        f"{name} {found.get(name)} (asked for: {value})"
        for name, value in wanted.items()
        if found.get(name) != value
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
    counts = _side_by_side(folder, settings, workers) if workers > 1 else _here(folder, settings)
    done = 0
    with contextlib.closing(counts):  # ends the processes, whatever `progress` raises
        progress(done, total)
        for count in counts:
            done += count
            progress(done, total)
    if done != total:
        raise OSError(f"a process ended after {done} of {total} utterances; see above for why")


def _side_by_side(folder: Path, settings: DemoSettings, parts: int) -> Generator[int, None, None]:
    """The same, by `parts` processes.

    Plain ones: what multiprocessing spawns imports the caller's main script, and torch with it,
    and fork is unsafe beside torch's threads. All of them write their counts into one pipe.
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


def _here(folder: Path, settings: DemoSettings) -> Generator[int, None, None]:
    """The same, by this process."""
    # Here, because it needs OpenCV, and whoever trains from prepared stores may have none.
    from fdan.corpora.demo.cells import write_part

    yield from write_part(folder, settings)
