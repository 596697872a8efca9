"""The model as MLflow serves it: speech in, emotions out.

This file is part of the registered model and is run when that is loaded ("models from code":
nothing is pickled). Beside it are the code of fdan as it was at promotion, the tensors, and a sound
with the model's answer to it. Whoever loads the model prepares speech by that code and those
settings. If the libraries of another machine prepare it differently, the answer to the sound
differs, and the model refuses to load.
"""

import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from fdan.emotions import EMOTIONS
from fdan.errors import DataError, FdanError
from fdan.inference.model_folder import read_model
from fdan.media.faces import FaceSettings, is_still
from fdan.media.pixels import Settings, read_pixels, settings_from_dict

Images = npt.NDArray[np.uint8]

SOUND: Final = "example.wav"
ANSWER: Final = "answer.json"
"""In the artifact `example`: a sound, and the model's answer to it at promotion."""

PATHS: Final = "FDAN_SPEECH"
"""Environment variable: the folder below which a server may read the paths that callers give. A
server without it takes sound only, since a path would let any caller probe its files. A server of
your own that loads the model should set it, unless the paths are the server's own."""

TOLERANCE: Final = 1e-3
"""Tolerance of the answer to the example, against that at promotion. Other processors round
differently (1e-6, a pixel's rounding 1e-4); another window or mel scale changes it by tenths."""

_DATA_URL: Final = re.compile(rb"\s*data:(?P<kind>[^,]{0,200});base64,", re.IGNORECASE)

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
"""Base64 or base64url. No sound file consists of these characters alone."""

_SERVERS: Final = ("uvicorn", "gunicorn", "waitress-serve", "hypercorn", "fastapi", "flask")
"""Programs that serve. Their packages say nothing: gradio and notebooks import them, too."""

_SERVING: Final = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Environment variable that MLflow's scoring server sets once it has loaded the model."""


class SpeechEmotion(PythonModel):
    """Columns in: `speech`, the bytes of a sound or video file (in JSON: base64, base64url or a
    data: URL), or `path` to one; optionally `face`, the same of an image or a video of the
    speaker. Columns out: `emotion`; the probability of each emotion; `basis`, what the answer rests
    on; `model`, which one answered."""

    def load_context(self, context: PythonModelContext) -> None:
        """Called by MLflow. Raises MlflowException if this machine would answer otherwise than the
        one that promoted the model."""
        folder = Path(context.artifacts["model"])
        with _as_mlflow_error():
            self.model = read_model(folder)
            self._settings = settings_from_dict(
                "acoustic", self.model.facts["preparation"]["acoustic"]
            )
            self._name = _model_name(folder, self.model.facts)
            self._check_example(Path(context.artifacts["example"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """A row for each row, in order. Raises MlflowException, which a server answers as 400, for
        the first one that cannot be judged."""
        with _as_mlflow_error():
            if not {"speech", "path"} & set(model_input.columns):
                raise FdanError("there is no column speech, the bytes of sound files, and no path")
            try:  # in some of its formats, MLflow makes one row of whole columns
                frame = model_input.explode(list(model_input.columns), ignore_index=True)
            except ValueError:
                raise FdanError("the columns are not of the same length") from None
        rows = []
        for number, row in enumerate(frame.to_dict("records")):
            with _as_mlflow_error(f"row {number}: "):
                rows.append(self._answer(row))
        return pd.DataFrame(rows, columns=["emotion", *EMOTIONS, "basis", "model"])

    def _answer(self, row: dict[str, object]) -> dict[str, object]:
        speech, path, face = (_or_none(row.get(name)) for name in ("speech", "path", "face"))
        if (speech is None) == (path is None):
            raise FdanError(
                "give either speech, the bytes of a sound file (base64 in JSON), or a path"
            )
        if path is None:
            images = _images_of_bytes("the speech", speech, self._settings)
        else:
            images = _images(str(path), _allowed_file(str(path)), self._settings)
        faces = None
        if face is not None:
            settings = settings_from_dict("visual", self.model.facts["preparation"]["visual"])
            faces = _images_of_bytes("the face", face, settings)
        probabilities = self.model.probabilities(images, [faces])[0]
        return {
            "emotion": EMOTIONS[int(probabilities.argmax())],
            **dict(zip(EMOTIONS, probabilities.tolist(), strict=True)),
            "basis": "speech" if faces is None else "speech and face",
            "model": self._name,
        }

    def _check_example(self, example: Path) -> None:
        then = json.loads((example / ANSWER).read_text(encoding="utf-8"))["probabilities"]
        images = read_pixels(example / SOUND, self._settings).images
        now = self.model.probabilities(images)[0]
        difference = float(abs(now - np.array([then[emotion] for emotion in EMOTIONS])).max())
        if not difference <= TOLERANCE:
            raise FdanError(
                f"this machine does not answer as the model did when it was promoted: to {SOUND}"
                f" in its folder, probabilities differ by {difference:.2g}; install the versions of"
                " its requirements.txt"
            )


def _or_none(value: object) -> object:
    """The cell, or None where pandas left it empty."""
    return None if value is None or value is pd.NA or value != value else value


def _allowed_file(path: str) -> Path:
    """The file, if this process may read paths that its callers give. Raises FdanError."""
    folder = os.environ.get(PATHS)
    if folder is not None:
        file = Path(folder, path).resolve()
        if not file.is_relative_to(Path(folder).resolve()):
            raise FdanError(f"{path} is not below the folder that this server reads from")
        return file
    if _is_server():
        raise FdanError(
            "a server takes the sound itself, not a path: send the file's bytes as speech (base64),"
            f" or start it with {PATHS}=FOLDER to let callers name files below that folder"
        )
    return Path(path)


def _is_server() -> bool:
    """Whether this process is a server whose requests come here unchanged: MLflow's, MLServer's, or
    one that a server's program runs."""
    program = Path(sys.argv[0] if sys.argv else "")
    name = program.parent.name if program.name == "__main__.py" else program.stem
    return _SERVING in os.environ or "mlserver" in sys.modules or name in _SERVERS


def _images_of_bytes(what: str, sent: object, settings: Settings) -> Images:
    content, kind = _file_content(what, sent)
    suffix = ""
    if isinstance(settings, FaceSettings):  # pictures and films are told apart by their names
        suffix = ".png" if is_still(content) or kind.startswith("image/") else ".mp4"
    with tempfile.TemporaryDirectory(prefix="fdan-") as folder:
        file = Path(folder, f"clip{suffix}")
        file.write_bytes(content)
        return _images(what, file, settings)


def _file_content(what: str, content: object) -> tuple[bytes, str]:
    """The bytes of a file, out of base64 if they are that; and the kind that a data: URL gives."""
    is_text = isinstance(content, str)
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise FdanError(f"{what} is {type(content).__name__}, not bytes or base64")
    content = bytes(content)
    url = _DATA_URL.match(content)
    text = b"".join(content[url.end() if url else 0 :].split())
    if not (is_text or url or _BASE64.fullmatch(text)):
        return content, ""
    kind = url["kind"].decode("ascii", "replace").strip().lower() if url else ""
    digits = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True), kind
    except ValueError as error:
        words = "" if url or not text.startswith(b"data:") else ", nor a data: URL of base64"
        raise FdanError(f"{what} is damaged base64 ({error}){words}") from None


def _images(what: str, file: Path, settings: Settings) -> Images:
    try:
        return read_pixels(file, settings).images
    except DataError as error:
        raise FdanError(f"{what} {error}") from None


def _model_name(folder: Path, facts: Mapping[str, object]) -> str:
    """NAME/VERSION if MLflow wrote down what it loaded, else the study and its trial."""
    try:
        loaded = yaml.safe_load((folder.parents[1] / "registered_model_meta").read_text())
        return f"{loaded['model_name']}/{loaded['model_version']}"
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return f"{facts['study']}, trial {facts['trial']}"


class BadInput(MlflowException):
    """A caller's mistake. MLflow's server writes the whole input before an exception's message; of
    this one, the message stays as it was first."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "message" or "message" not in vars(self):
            super().__setattr__(name, value)


@contextmanager
def _as_mlflow_error(where: str = "") -> Iterator[None]:
    """A caller's mistake as MLflow's own error, which its server answers with 400."""
    try:
        yield
    except FdanError as error:
        line = " ".join(f"{where}{error}".split())
        raise BadInput(line, error_code=INVALID_PARAMETER_VALUE) from None


set_model(SpeechEmotion())
