"""The model as MLflow serves it: speech in, emotions out.

This file lies in the registered model itself and is run when that is loaded ("models from code":
nothing is pickled). Beside it lie the package fdan as it was at promotion, the tensors, and a sound
with the answer that the model gave to it then. Whoever loads it prepares speech by that code and
those settings; should the libraries of another machine prepare it differently, the answer to the
sound differs, and the model refuses to serve.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from fdan.emotions import EMOTIONS
from fdan.errors import DataError, FdanError
from fdan.inference.model_folder import read_model
from fdan.media.pixels import Settings, read_pixels, settings_of

Images = npt.NDArray[np.uint8]

SOUND: Final = "example.wav"
ANSWER: Final = "answer.json"
"""In the artifact `example`: a sound, and the model's answer to it at promotion."""

PATHS: Final = "FDAN_SPEECH"
"""Environment variable: the folder below which a server may read the paths that callers name. A
server without it takes sound only, since a path would let any caller ask about its files. Whoever
loads the model in a server of their own making sets it, unless the paths are the server's own."""

TOLERANCE: Final = 1e-3
"""How far the answer to the kept sound may be from the kept answer. Other processors round
differently (1e-6, a pixel's rounding 1e-4); another window or mel scale moves it by tenths."""

_STILLS: Final = (b"\xff\xd8", b"\x89PNG", b"BM")
"""How a JPEG, PNG or BMP image begins; any other face is taken for a video."""

_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]\s*){16,}={0,2}\s*")
"""No sound file is made of these characters alone."""

_SERVERS: Final = ("uvicorn", "gunicorn", "waitress-serve", "hypercorn", "fastapi", "flask")
"""Programs. Their packages are no sign: gradio and notebooks import them, too."""

_SERVING: Final = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Environment variable that MLflow's scoring server sets once it has loaded the model."""


class SpeechEmotion(PythonModel):
    """Columns in: `speech`, the bytes of a sound or video file (base64 in JSON), or `path` to one;
    `face`, the bytes of an image or a video of the speaker, may go with it. Columns out: `emotion`;
    the probability of each; `basis`, what the answer rests on; `model`, which one answered."""

    def load_context(self, context: Any) -> None:
        """Called by MLflow. Raises MlflowException if this machine would answer otherwise than the
        one that promoted the model."""
        with _in_words():
            self.model = read_model(Path(context.artifacts["model"]))
            self._settings = settings_of("acoustic", self.model.facts["preparation"]["acoustic"])
            self._name = _name(Path(context.artifacts["model"]), self.model.facts)
            self._check(Path(context.artifacts["example"]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row each, in order. Raises MlflowException, which a server passes on as 400, for the
        first row that cannot be judged."""
        with _in_words():
            if not {"speech", "path"} & set(model_input.columns):
                raise FdanError("there is no column speech, the bytes of sound files, and no path")
        rows = []
        for number, row in enumerate(model_input.to_dict("records")):
            with _in_words(f"row {number}: "):
                rows.append(self._answer(row))
        return pd.DataFrame(rows, columns=["emotion", *EMOTIONS, "basis", "model"])

    def _answer(self, row: dict[str, Any]) -> dict[str, Any]:
        speech, path, face = (_given(row.get(name)) for name in ("speech", "path", "face"))
        if (speech is None) == (path is None):
            raise FdanError(
                "give either speech, the bytes of a sound file (base64 in JSON), or a path"
            )
        if path is None:
            images = _of_bytes("the speech", speech, "", self._settings)
        else:
            images = _images(str(path), _allowed(str(path)), self._settings)
        faces = None if face is None else self._faces(face)
        chances = self.model.probabilities(images, [faces])[0]
        named = dict(zip(EMOTIONS, chances.tolist(), strict=True))
        return {
            "emotion": EMOTIONS[int(chances.argmax())],
            **named,
            "basis": "speech" if faces is None else "speech and face",
            "model": self._name,
        }

    def _faces(self, content: Any) -> Images:
        settings = settings_of("visual", self.model.facts["preparation"]["visual"])
        still = isinstance(content, bytes) and content.startswith(_STILLS)
        return _of_bytes("the face", content, ".png" if still else ".mp4", settings)

    def _check(self, example: Path) -> None:
        then = json.loads((example / ANSWER).read_text(encoding="utf-8"))["probabilities"]
        images = read_pixels(example / SOUND, self._settings).images
        now = self.model.probabilities(images)[0]
        apart = float(abs(now - np.array([then[emotion] for emotion in EMOTIONS])).max())
        if not apart <= TOLERANCE:
            raise FdanError(
                f"this machine does not answer as the model did when it was promoted: to {SOUND}"
                f" in its folder, probabilities differ by {apart:.2g}; install the versions of its"
                " requirements.txt"
            )


def _given(value: Any) -> Any:
    """None for a cell that pandas left empty."""
    return None if value is None or value is pd.NA or value != value else value


def _allowed(path: str) -> Path:
    """The file, if this process may read what its callers name. Raises FdanError."""
    folder = os.environ.get(PATHS)
    if folder is not None:
        file = Path(folder, path).resolve()
        if not file.is_relative_to(Path(folder).resolve()):
            raise FdanError(f"{path} is not below the folder that this server reads from")
        return file
    if _serves():
        raise FdanError(
            "a server takes the sound itself, not a path: send the file's bytes as speech (base64),"
            f" or start it with {PATHS}=FOLDER to let callers name files below that folder"
        )
    return Path(path)


def _serves() -> bool:
    """Whether this process is a server whose requests come here as they are: MLflow's, MLServer's,
    or one that a server's program runs."""
    program = Path(sys.argv[0] if sys.argv else "")
    name = program.parent.name if program.name == "__main__.py" else program.stem
    return _SERVING in os.environ or "mlserver" in sys.modules or name in _SERVERS


def _of_bytes(what: str, content: Any, suffix: str, settings: Settings) -> Images:
    if not isinstance(content, bytes | bytearray | memoryview):
        raise FdanError(f"{what} is {type(content).__name__}, not bytes")
    if _BASE64.fullmatch(content):  # MLflow decodes it in some of its formats and not in others
        try:
            content = base64.b64decode(content)
        except ValueError as error:
            raise FdanError(f"{what} is damaged base64 ({error})") from None
    with tempfile.TemporaryDirectory(prefix="fdan-") as folder:
        file = Path(folder, f"clip{suffix}")
        file.write_bytes(content)
        return _images(what, file, settings)


def _images(what: str, file: Path, settings: Settings) -> Images:
    try:
        return read_pixels(file, settings).images
    except DataError as error:
        raise FdanError(f"{what} {error}") from None


def _name(folder: Path, facts: Mapping[str, Any]) -> str:
    """NAME/VERSION where MLflow noted what it loaded, else the study and its trial."""
    try:
        noted = yaml.safe_load((folder.parents[1] / "registered_model_meta").read_text())
        return f"{noted['model_name']}/{noted['model_version']}"
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return f"{facts['study']}, trial {facts['trial']}"


@contextmanager
def _in_words(where: str = "") -> Iterator[None]:
    """What a caller did wrong in MLflow's own error, which its server answers with 400."""
    try:
        yield
    except FdanError as error:
        line = " ".join(f"{where}{error}".split())
        raise MlflowException(line, error_code=INVALID_PARAMETER_VALUE) from None


set_model(SpeechEmotion())
