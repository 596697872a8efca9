"""A process that loads a registered model's folder as its users' processes do: it finds the fdan in
that folder and no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import FdanError

_PROGRAM: Final = Path(__file__).with_name("isolated_model_main.py")
_TIMEOUT_S: Final = 300.0


class IsolatedModel:
    """Answers once. Its imports take seconds: who starts it early need not wait for them. A context
    manager that leaves no process behind."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Let it import what it needs. If it cannot, `probabilities` says why."""
        with contextlib.suppress(OSError):
            self._start()

    def _start(self) -> None:
        if self._process is not None:
            return
        with contextlib.ExitStack() as stack:
            self._folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="fdan-isolated-"))
            )
            log = self._folder / "log"
            self._log = stack.enter_context(log.open("w+", encoding="utf-8"))
            process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                cwd=self._folder,
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                text=True,
                start_new_session=True,  # Ctrl-C is for its parent; when that ends, its input does
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            self._process = process
            self._stack = stack.pop_all()

    def probabilities(self, folder: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """What the packaged model in a folder says of speech images.

        Args:
            folder: as tracking/registry/package.py builds it.
            images: (N, H, W, 1).

        Returns:
            (N, 7) probabilities.

        Raises:
            FdanError: it does not load, or not from its own code.
            OSError: there is no room for a process.
        """
        self._start()
        assert self._process is not None and self._process.returncode is None, "it answers once"
        np.save(self._folder / "images.npy", images, allow_pickle=False)
        answers = self._folder / "answers.json"
        request = json.dumps([*map(str, (folder.resolve(), self._folder / "images.npy", answers))])
        try:
            self._process.communicate(request, timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise FdanError(
                f"the packaged model gave no answer within {_TIMEOUT_S:.0f} s"
            ) from None
        code = self._process.returncode
        assert code is not None
        if code < 0:
            raise FdanError(f"the process of the packaged model was ended (signal {-code})")
        if code:
            self._log.seek(0)
            last = (self._log.read().strip() or f"exit code {code}").splitlines()[-1]
            raise FdanError(f"the packaged model does not load: {last[:300]}")
        answer = json.loads(answers.read_text(encoding="utf-8"))
        if Path(answer["code"]).resolve() != folder.resolve() / "code" / "fdan":
            raise FdanError(
                f"the packaged model answers with the code in {answer['code']}, not its own"
            )
        return np.array(answer["probabilities"], dtype=np.float64).reshape(-1, len(EMOTIONS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
