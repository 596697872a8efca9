"""A process that answers with a registered model's folder as its users' processes do: it finds the
fdan in that folder and no other."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import FdanError

_PROGRAM: Final = Path(__file__).with_name("isolated_model_main.py")
_ANSWER_S: Final = 300.0


class Witness:
    """Asked once. Imports take it seconds: who starts it early need not wait for them. A context
    manager that leaves no process behind."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        """Let it import what it needs. If it cannot, it says why when it is asked."""
        with contextlib.suppress(OSError):
            self._begin()

    def _begin(self) -> None:
        if self._process is not None:
            return
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        self._here = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fdan-asked-"))
        )
        self._said = self._stack.enter_context((self._here / "said").open("w+", encoding="utf-8"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            cwd=self._here,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever asks; without them, its input ends
        )
        self._stack.enter_context(self._process)
        self._stack.callback(self._process.kill)

    def answers(self, folder: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """(N, 7): what the registered model's folder says of speech images (N, H, W, 1).

        Raises FdanError where it does not load, or not from its own code, OSError where there is no
        room for a process.
        """
        self._begin()
        assert self._process is not None and self._process.returncode is None, "it is asked once"
        np.save(self._here / "images.npy", images, allow_pickle=False)
        paths = [folder.resolve(), self._here / "images.npy", self._here / "answers.json"]
        try:
            self._process.communicate(json.dumps([*map(str, paths)]), timeout=_ANSWER_S)
        except subprocess.TimeoutExpired:
            raise FdanError(
                f"the registered model gave no answer within {_ANSWER_S:.0f} s"
            ) from None
        code = self._process.returncode
        assert code is not None
        if code < 0:
            raise FdanError(
                f"the process that asks the registered model was ended (signal {-code})"
            )
        if code:
            self._said.seek(0)
            last = (self._said.read().strip() or f"exit code {code}").splitlines()[-1]
            raise FdanError(f"the registered model does not load: {last[:300]}")
        found = json.loads((self._here / "answers.json").read_text(encoding="utf-8"))
        own = folder.resolve() / "code" / "fdan"
        if Path(found["code"]).resolve() != own:
            raise FdanError(
                f"the registered model answers with the code in {found['code']}, not its own"
            )
        return np.array(found["probabilities"], dtype=np.float64).reshape(-1, len(EMOTIONS))

    def __enter__(self) -> Witness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
