"""The registered model's folder: an MLflow model of code and tensors.

MLmodel, requirements.txt ...  MLflow's own: signature, versions
README.md                      the model card
served.py                      what MLflow serves (tracking/registry/pyfunc_model.py)
code/fdan/                     the part of fdan that it answers with
artifacts/model/               model.json, model.safetensors, test.csv
artifacts/example/             a sound, and the answer to it
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fdan.device import single_thread
from fdan.emotions import EMOTIONS
from fdan.errors import FdanError
from fdan.files import PROJECT_ROOT
from fdan.inference.model_folder import TENSORS, SpeechModel, read_model
from fdan.inference.model_source import FACTS
from fdan.media.pixels import read_pixels, settings_from_dict
from tracking.registry.pickle_scan import check_no_pickle
from tracking.result import PREDICTIONS

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

SERVED: Final = Path(__file__).with_name("pyfunc_model.py")

# What the served model imports for speech, MLflow and pandas with it. A face needs OpenCV as well.
_REQUIREMENTS: Final = (
    *("torch", "torchvision", "numpy", "safetensors", "soundfile", "av"),
    *("librosa", "soxr", "mlflow", "pandas"),
)


def build_package(
    folder: Path, model_folder: Path, card: str, metadata: Mapping[str, object]
) -> None:
    """Make the registered model's folder. Raises FdanError if something pickled would get in.

    Args:
        folder: Folder to make.
        model_folder: Model folder of the study's winner, with its predictions.
        card: Content of README.md.
        metadata: Metadata for MLmodel.
    """
    import mlflow.pyfunc
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="fdan-model-") as temporary:
        staged = Path(temporary)
        for name in ("model", "example"):
            (staged / name).mkdir()
        for name in (FACTS, TENSORS, PREDICTIONS):
            shutil.copyfile(model_folder / name, staged / "model" / name)
        _write_example(staged / "example", read_model(model_folder))
        for file in served_code():
            copy = staged / "code" / file.relative_to(PROJECT_ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        # MLflow copies with the original's rights, which are not this folder's group's.
        shutil.copyfile(SERVED, staged / SERVED.name)
        mlflow.pyfunc.save_model(
            path=folder,
            python_model=str(staged / SERVED.name),
            artifacts={name: str(staged / name) for name in ("model", "example")},
            code_paths=[str(staged / "code" / "fdan")],
            signature=_signature(),
            input_example=pd.DataFrame({"speech": [example_sound()]}),
            pip_requirements=_requirements(),
            metadata={"fdan": dict(metadata)},
        )
    _remove_paths(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    check_no_pickle(folder)


def _requirements() -> list[str]:
    """The versions with which the model is promoted."""
    try:
        return [f"{name}=={version(name)}" for name in _REQUIREMENTS]
    except PackageNotFoundError as error:
        raise FdanError(f"{error.name} is not installed; pip install {error.name}") from None


def served_code() -> list[Path]:
    """Files of fdan that the served model imports, directly or not, at the top of a file or inside
    a function."""
    finder = _OwnModules(path=[str(PROJECT_ROOT)])
    finder.run_script(str(SERVED))
    modules = (module for name, module in finder.modules.items() if name != "__main__")
    return [Path(vars(module)["__file__"]) for module in modules]


class _OwnModules(ModuleFinder):
    """Follows imports of fdan alone."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        if parent is None and name not in ("fdan", "__init__"):
            raise ImportError(name)
        return super().find_module(name, path, parent)


def _remove_paths(folder: Path) -> None:
    """MLflow writes down where it found the files; they lie beside that now."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = SERVED.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))


def _signature() -> ModelSignature:
    """Signature of inputs and outputs, for MLflow and its server."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    string, double = DataType.string, DataType.double
    # Of the type `binary`, MLflow would drop what is not in base64's alphabet (a data: URL's
    # punctuation, base64url's - and _) and decode the rest.
    any_type: Any = AnyType
    inputs = dict.fromkeys(("speech", "path", "face"), any_type())
    probabilities = dict.fromkeys(EMOTIONS, double)
    outputs = {"emotion": string, **probabilities, "basis": string, "model": string}
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in inputs.items()]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
    )


def _write_example(folder: Path, model: SpeechModel) -> None:
    from tracking.registry.pyfunc_model import ANSWER, SOUND

    (folder / SOUND).write_bytes(example_sound())
    settings = settings_from_dict("acoustic", model.facts["preparation"]["acoustic"])
    images = read_pixels(folder / SOUND, settings).images
    with single_thread():  # so that building it again gives the same
        probabilities = model.probabilities(images)[0]
    answer = {"probabilities": dict(zip(EMOTIONS, probabilities.tolist(), strict=True))}
    (folder / ANSWER).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def example_sound() -> bytes:
    """A wav file of 1.2 s at 22.05 kHz that is nobody's: a gliding tone with an accent. Its rate
    is not the models', so that resampling is tested, too."""
    from scipy.io import wavfile
    from scipy.signal import sawtooth

    rate = 22050
    time = np.arange(int(1.2 * rate)) / rate
    pitch = 140 + 60 * np.sin(2 * np.pi * 1.3 * time)
    noise = np.random.default_rng(0).normal(scale=0.05, size=len(time))
    loudness = np.exp(-(((time - 0.45) / 0.3) ** 2)) + 0.2
    sound = loudness * (sawtooth(2 * np.pi * np.cumsum(pitch) / rate) + noise)
    file = io.BytesIO()
    wavfile.write(file, rate, np.round(12000 * sound / np.abs(sound).max()).astype("<i2"))
    return file.getvalue()
