"""A process that loads a registered model's folder as its users' processes do: it finds the fdan in
that folder and no other."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import FdanError

_PROGRAM: Final = Path(__file__).with_name("isolated_model_main.py")
_TIMEOUT_S: Final = 300.0


class IsolatedModel(contextlib.ExitStack):
    """Answers once. Its imports take seconds: who starts it early need not wait for them. A context
    manager that leaves no process behind."""

    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Let it import what it needs. If it cannot, `probabilities` says why."""
        with contextlib.suppress(OSError):
            self._start()

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            temporary = tempfile.TemporaryDirectory(prefix="fdan-isolated-")
            self._folder = Path(self.enter_context(temporary))
            self._log = self.enter_context((self._folder / "log").open("w+", encoding="utf-8"))
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                cwd=self._folder,
                env={
                    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                    # Compiled files in the package would be registered with it.
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                text=True,
                start_new_session=True,  # Ctrl-C is for its parent; when that ends, its input does
            )
            self.enter_context(self._process)
            self.callback(self._process.kill)
        return self._process

    def probabilities(self, folder: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """(N, 7): what the packaged model in a folder (tracking/registry/package.py) says of speech
        images (N, H, W, 1). Raises FdanError if it does not load, or not from its own code, and
        OSError if there is no room for a process."""
        process = self._start()
        assert process.returncode is None, "it answers once"
        np.save(self._folder / "images.npy", images, allow_pickle=False)
        answers = self._folder / "answers.json"
        paths = (folder.resolve(), self._folder / "images.npy", answers)
        try:
            process.communicate(json.dumps([*map(str, paths)]), timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            reason = f"the packaged model gave no answer within {_TIMEOUT_S:.0f} s"
            raise FdanError(reason) from None
        if (code := process.wait()) < 0:
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
