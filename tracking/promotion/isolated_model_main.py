"""A program: load a packaged model's folder as its users do, and write down its answers.

    python -P isolated_model_main.py <<< '["FOLDER", "IMAGES.npy", "ANSWERS.json"]'

isolated_model.py runs it in a process that finds no fdan but the one in the folder. What takes long
is imported before its input is read.
"""

import json
import os
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import torch  # noqa: F401 (a model's own fdan wants it)


def _ask(folder: Path, images: Path, answers: Path) -> None:
    """images: (N, H, W, 1) speech images, as a NumPy file. answers: the JSON file to write."""
    model = mlflow.pyfunc.load_model(str(folder))
    speech_model = model.unwrap_python_model().model
    sound = next(folder.glob("artifacts/example/*.wav")).read_bytes()
    model.predict(pd.DataFrame({"speech": [sound]}))
    probabilities = speech_model.probabilities(np.load(images, allow_pickle=False))
    code = str(Path(sys.modules["fdan"].__file__ or "").parent)
    answers.write_text(json.dumps({"code": code, "probabilities": probabilities.tolist()}))


if __name__ == "__main__":
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    if request := sys.stdin.read():  # there may be none in the end
        _ask(*map(Path, json.loads(request)))
    sys.stderr.flush()
    os._exit(0)  # the parent waits: taking torch and MLflow apart would take 2 s
