"""A model in one ONNX file: speech to emotions without torch.

`python -m fdan export` writes it (export.py). Its metadata are text: `format`, `emotions`,
`preparation` and `origin` (the rest of model.json) as JSON, `model_sha256` of the tensors' file.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from fdan.emotions import EMOTIONS
from fdan.errors import WeightsError
from fdan.files import first_line
from fdan.inference.model_source import Facts
from fdan.machine.cpus import cpu_count
from fdan.machine.libraries import why_not_loaded
from fdan.media.pixels import image_shape, settings_from_dict

if TYPE_CHECKING:
    import onnxruntime

_FORMAT: Final = "1"
_OWN: Final = ("emotions", "preparation")  # facts that have a name of their own among the metadata
IMAGES: Final = "images"
PROBABILITIES: Final = "probabilities"
_IMAGES_AT_ONCE: Final = 64
_ERRORS_ONLY: Final = 3
_OTHER_FILES: Final = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class OnnxModel:
    """Answers as model_folder.SpeechModel does, by speech alone."""

    facts: Facts  # content of model.json
    session: onnxruntime.InferenceSession

    @classmethod
    def read(cls, file: Path) -> OnnxModel:
        """WeightsError if the file is no such model. Only its operators are executed, and no other
        file is opened."""
        try:
            import onnxruntime
        except Exception as error:
            reason = why_not_loaded("onnxruntime", error)
            raise WeightsError(f"model {file}: reading ONNX {reason}") from None
        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY + 1  # what is wrong with the file is said below
        options.intra_op_num_threads = cpu_count()
        try:
            # ONNX may name other files for its tensors: they are looked for in an empty folder.
            with tempfile.TemporaryDirectory(prefix="fdan-onnx-") as nothing:
                options.add_session_config_entry(_OTHER_FILES, nothing)
                session = onnxruntime.InferenceSession(
                    file.read_bytes(), options, providers=["CPUExecutionProvider"]
                )
            facts = _facts(session.get_modelmeta().custom_metadata_map)
            _check(session, facts)
        except FileNotFoundError:
            raise WeightsError(f"model {file}: no such file") from None
        except OSError as error:
            raise WeightsError(f"model {file} cannot be read: {error.strerror}") from None
        except Exception as error:  # onnxruntime's own are plain Exceptions
            reason = first_line(error, 120)
            raise WeightsError(
                f"model {file} is damaged, or not one that `python -m fdan export` wrote ({reason})"
            ) from None
        return cls(facts, session)

    def probabilities(
        self,
        images: npt.NDArray[np.uint8],
        faces: Sequence[npt.NDArray[np.uint8] | None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Probabilities, (N, 7), in the order of EMOTIONS.

        Args:
            images: (N, H, W, 1) log-mel images, prepared as `facts` says.
            faces: None; faces are a WeightsError.
        """
        if faces is not None:
            raise WeightsError("an ONNX model judges by speech alone: name the model's folder")
        rows = [np.zeros((0, len(EMOTIONS)), np.float32)]
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            batch = np.ascontiguousarray(images[start : start + _IMAGES_AT_ONCE])
            rows += self.session.run([PROBABILITIES], {IMAGES: batch})
        return np.concatenate(rows).astype(np.float64)


def metadata(facts: Facts) -> dict[str, str]:
    """Metadata of an ONNX file from the content of model.json, but for `model_sha256`."""
    origin = {name: value for name, value in facts.items() if name not in _OWN}
    own = {name: json.dumps(facts[name]) for name in _OWN}
    return {"format": _FORMAT, "origin": json.dumps(origin), **own}


def _facts(stored: Mapping[str, str]) -> Facts:
    if stored.get("format") != _FORMAT:
        raise ValueError("not of this version of fdan-search")
    origin = json.loads(stored["origin"])
    if not isinstance(origin, dict):
        raise ValueError("its origin is no object")
    facts = {**origin, **{name: json.loads(stored[name]) for name in _OWN}}
    if facts["emotions"] != list(EMOTIONS):
        raise ValueError("of other emotions")
    return facts


def _check(session: onnxruntime.InferenceSession, facts: Facts) -> None:
    """ValueError unless prepared images go in and seven probabilities come out."""
    (images,), (chances,) = session.get_inputs(), session.get_outputs()
    shape = image_shape(settings_from_dict("acoustic", facts["preparation"]["acoustic"]))
    if (images.name, images.type, tuple(images.shape[1:])) != (IMAGES, "tensor(uint8)", shape):
        raise ValueError("its input is not log-mel images as it says")
    if (chances.name, chances.shape[1:]) != (PROBABILITIES, [len(EMOTIONS)]):
        raise ValueError("its output is not the probabilities of seven emotions")
    (answer,) = session.run([PROBABILITIES], {IMAGES: np.zeros((1, *shape), np.uint8)})
    if not math.isclose(float(answer.sum()), 1, abs_tol=1e-3):
        raise ValueError("its answers are no probabilities")
