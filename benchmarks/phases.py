"""Inside a process of a search: which phase it is in, looked up many times a second.

`watch()` is called as Python starts, by a sitecustomize that wall_time.py puts on the path, in the
driver and in each of Ray's workers. What it sees goes to a file of the process's own, as lines

    began ended phase

in seconds of the clock that all processes of a machine share. Files only grow and are written
several times a second, since Ray's workers are killed in the end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

FOLDER: Final = "FDAN_PHASES"
"""Environment variable: where the files go."""

IMPORTS: Final = "imports"
RAY: Final = "Ray start and end"
PREPARING: Final = "preparing"
FEATURES: Final = "features"
STEPS: Final = "steps"
VALIDATION: Final = "validation"
CHECKPOINTS: Final = "checkpoints"
TRACKING: Final = "tracking"
ENDING: Final = "models, figures, report"
IDLE: Final = "idle"
ELSE: Final = "everything else"

# Not a phase of the table: the driver has nothing to do but to wait for the workers.
WAITING: Final = "waiting"

_EVERY_S: Final = 0.01
_WRITE_S: Final = 0.25
_ROOT: Final = f"{Path(__file__).resolve().parents[1]}/"

_Rules = Sequence[tuple[str, tuple[str, ...], str]]

# (path, functions or all, phase): the innermost frame that one of these holds for decides.
_DRIVER: Final[_Rules] = (
    ("<frozen importlib", (), IMPORTS),
    ("/ray/_private/worker.py", ("wait",), WAITING),
    (f"{_ROOT}search/tune/ray_session.py", ("_init", "_shut_down"), RAY),
    (f"{_ROOT}fdan/data/prepare.py", (), PREPARING),
    (f"{_ROOT}fdan/corpora/demo/", (), PREPARING),
    (f"{_ROOT}fdan/training/frozen_features.py", (), FEATURES),
    (f"{_ROOT}tracking/report", (), ENDING),
    (f"{_ROOT}tracking/", (), TRACKING),
    (f"{_ROOT}search/callbacks/mlflow.py", (), TRACKING),
    (f"{_ROOT}search/selection/winner.py", (), ENDING),
    (f"{_ROOT}search/results/", (), ENDING),
    (f"{_ROOT}search/selection/test_score.py", (), ENDING),
)
_WORKER: Final[_Rules] = (
    ("<frozen importlib", (), IMPORTS),
    (f"{_ROOT}fdan/training/checkpoint.py", (), CHECKPOINTS),
    (f"{_ROOT}search/worker/trial_folder.py", (), CHECKPOINTS),
    (f"{_ROOT}fdan/training/frozen_features.py", (), FEATURES),
    (f"{_ROOT}fdan/training/train.py", ("_with_tensors",), CHECKPOINTS),
    (f"{_ROOT}fdan/training/train.py", ("_pass",), STEPS),
    (
        f"{_ROOT}fdan/training/validate.py",
        ("make_bank", "predict_logits", "score_logits"),
        VALIDATION,
    ),
    ("/ray/", (), IDLE),
    (f"{_ROOT}search/worker/trainable.py", ("_locked", "wait_for_driver"), IDLE),
)
_TRIAL: Final = (f"{_ROOT}search/worker/trainable.py", "_run_assignments")


def watch() -> None:
    """Begin, if this process is the driver or a worker and not one that they have started."""
    words = " ".join(sys.orig_argv)
    if "default_worker.py" in words:
        kind, phase_of = "worker", _of_worker
    elif "search/run.py" in words:
        kind, phase_of = "driver", _of_driver
    else:
        return
    file = Path(os.environ[FOLDER]) / f"{kind}-{os.getpid()}"
    main = threading.get_ident()

    def sample() -> None:
        with file.open("a", encoding="ascii") as out:
            last = written = time.monotonic()
            began, before = last, IMPORTS
            while True:
                time.sleep(_EVERY_S)
                now = time.monotonic()
                phase = phase_of(sys._current_frames(), main)
                if phase != before or now - written > _WRITE_S:
                    # What changed did so since the last look, for all that is known just then.
                    out.write(f"{began:.4f} {last:.4f} {before}\n")
                    out.flush()
                    began, before, written = last, phase, now
                last = now

    threading.Thread(target=sample, name="phases", daemon=True).start()


def _of_driver(frames: dict[int, FrameType], main: int) -> str:
    return _phase(frames.get(main), _DRIVER)


def _of_worker(frames: dict[int, FrameType], main: int) -> str:
    """Trials run in a thread; between them a worker is idle."""
    for ident, frame in frames.items():
        if ident != main and _holds(frame, *_TRIAL):
            return _phase(frame, _WORKER)
    return IMPORTS if _phase(frames.get(main), _WORKER[:1]) == IMPORTS else IDLE


def _phase(frame: FrameType | None, rules: _Rules) -> str:
    while frame is not None:
        path, function = frame.f_code.co_filename, frame.f_code.co_name
        for where, functions, phase in rules:
            if where in path and (not functions or function in functions):
                return phase
        frame = frame.f_back
    return ELSE


def _holds(frame: FrameType | None, path: str, function: str) -> bool:
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_code.co_filename == path:
            return True
        frame = frame.f_back
    return False
