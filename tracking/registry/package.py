"""The registered model's folder: an MLflow model of code and tensors.

MLmodel, requirements.txt ...  MLflow's own: signature, versions
README.md                      the model card
served.py                      what answers (tracking/registry/pyfunc_model.py)
code/fdan/                     the package that it answers with
artifacts/model/               model.json, model.safetensors, test.csv
artifacts/example/             a sound, and the answer to it
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import wave
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np

import fdan
from fdan.device import single_thread
from fdan.emotions import EMOTIONS
from fdan.errors import FdanError
from fdan.inference.model_folder import FACTS, TENSORS, SpeechModel, read_model
from fdan.media.pixels import read_pixels, settings_of
from tracking.registry.pickle_scan import check_no_pickle
from tracking.result import PREDICTIONS

MODEL: Final = "artifacts/model"
"""In the registered model: the folder that fdan.inference.model_folder reads."""

EXAMPLE: Final = "artifacts/example"
SERVED: Final = Path(__file__).with_name("pyfunc_model.py")

# What the served model imports, MLflow and pandas with it. Training and search need more.
_NEEDS: Final = (
    *("torch", "torchvision", "numpy", "safetensors", "opencv-python", "soundfile", "soxr", "av"),
    *("filelock", "mlflow", "pandas"),
)


def build(folder: Path, winner: Path, card: str, facts: dict[str, Any]) -> None:
    """Make the registered model's folder out of the model in `winner`.

    facts: into MLmodel, as metadata. Raises FdanError where something pickled would get in.
    """
    import mlflow.pyfunc
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="fdan-model-") as temporary:
        staged = Path(temporary)
        for name in ("model", "example", "code"):
            (staged / name).mkdir()
        for name in (FACTS, TENSORS, PREDICTIONS):
            shutil.copyfile(winner / name, staged / "model" / name)
        model = read_model(winner)
        _write_example(staged / "example", model)
        package = staged / "code" / "fdan"
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
        shutil.copytree(Path(fdan.__file__).parent, package, ignore=ignored)
        mlflow.pyfunc.save_model(
            path=folder,
            python_model=str(SERVED),
            artifacts={name: str(staged / name) for name in ("model", "example")},
            code_paths=[str(package)],
            signature=signature(),
            input_example=pd.DataFrame({"speech": [example_sound()]}),
            pip_requirements=requirements(),
            metadata={"fdan": facts},
        )
    _without_paths(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    check_no_pickle(folder)


def _without_paths(folder: Path) -> None:
    """MLflow notes where it found the files; they lie beside its note now."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavour = model.flavors["python_function"]
    flavour["model_code_path"] = SERVED.name
    for kept in flavour["artifacts"].values():
        kept["uri"] = kept["path"]
    model.save(str(folder / "MLmodel"))


def signature() -> Any:
    """What goes in and what comes out, for MLflow and its server."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    given = [("speech", DataType.binary), ("path", DataType.string), ("face", DataType.binary)]
    texts = [ColSpec(DataType.string, name) for name in ("basis", "model")]
    return ModelSignature(
        inputs=Schema([ColSpec(kind, name, required=False) for name, kind in given]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "emotion"),
                *(ColSpec(DataType.double, name) for name in EMOTIONS),
                *texts,
            ]
        ),
    )


def requirements() -> list[str]:
    """The versions with which the model was promoted."""
    found = []
    for name in _NEEDS:
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            raise FdanError(f"{name} is not installed; pip install {name}") from None
    return found


def _write_example(folder: Path, model: SpeechModel) -> None:
    from tracking.registry.pyfunc_model import ANSWER, SOUND

    (folder / SOUND).write_bytes(example_sound())
    settings = settings_of("acoustic", model.facts["preparation"]["acoustic"])
    images = read_pixels(folder / SOUND, settings).images
    with single_thread():  # so that whoever builds it again builds the same
        chances = model.probabilities(images)[0]
    answer = {"probabilities": dict(zip(EMOTIONS, chances.tolist(), strict=True))}
    (folder / ANSWER).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def example_sound() -> bytes:
    """A wav file of 1.2 s at 22.05 kHz that belongs to nobody: a gliding voice with an accent. Its
    rate is not the models', so that resampling is part of the proof."""
    rate = 22050
    time = np.arange(int(1.2 * rate)) / rate
    pitch = 140 + 60 * np.sin(2 * np.pi * 1.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 25))
    loudness = np.exp(-(((time - 0.45) / 0.3) ** 2)) + 0.2
    noise = np.random.default_rng(0).normal(size=len(time))
    sound = loudness * (np.asarray(voice) + 0.05 * noise)
    samples = np.round(12000 * sound / np.abs(sound).max()).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.tobytes())
    return file.getvalue()
