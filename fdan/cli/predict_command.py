"""`python -m fdan predict` and `export`, which use a finished model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from fdan.emotions import EMOTIONS, SHORT
from fdan.errors import ConfigError, DataError, WeightsError
from fdan.inference.model_source import describe_model, find_model, open_model
from fdan.inference.predict import Prediction, speech_files
from fdan.inference.predict import predict as run_prediction


def predict(arguments: argparse.Namespace) -> int:
    """Print the emotions of new files. Those that cannot be read are named on stderr; if none can,
    the exit code is 2."""
    name, paths = arguments.model, [Path(path) for path in arguments.paths]
    if name is None:
        if len(paths) < 2:
            raise ConfigError("name a model (or give it with --model) and files to judge")
        name, paths = arguments.paths[0], paths[1:]
    elif not paths:
        raise ConfigError("name audio or video files to judge")
    source = find_model(name)
    files = speech_files(paths)
    face: Path | None = arguments.face
    if face is not None and len(files) != 1:
        raise ConfigError(f"--face needs exactly one speech file, not {len(files)}")
    if face is not None and not face.is_file():
        raise DataError(f"face {face}: no such file")
    model = open_model(source, arguments.device)
    model_text = describe_model(name, source, model.facts)
    print_predictions = _print_json if arguments.json else _print_table
    predictions = print_predictions(run_prediction(model, files, face), model_text)
    failed = [prediction for prediction in predictions if prediction.emotion is None]
    for prediction in failed if len(failed) < len(predictions) else failed[1:]:
        print(f"skipped {prediction.file}: {prediction.reason}", file=sys.stderr)
    if len(failed) == len(predictions):
        raise DataError(f"{failed[0].file}: {failed[0].reason}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model as ONNX."""
    folder = find_model(arguments.model)
    if folder.is_file():
        raise WeightsError(
            f"model {folder}: is a file; name the folder that train or a search wrote"
        )
    from fdan.inference.export import export as write_onnx

    difference = write_onnx(folder, arguments.file)
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB; on noise, probabilities differ by {difference:.0e}")
    print(f"next: python -m fdan predict {arguments.file} clip.wav")
    return 0


def _print_json(predictions: Iterable[Prediction], model: str) -> list[Prediction]:
    """Print one document."""
    predictions = list(predictions)
    documents = [
        {
            "file": str(prediction.file),
            "emotion": prediction.emotion,
            "probabilities": prediction.probabilities,
            "by": prediction.by,
            "model": model,
        }
        if prediction.emotion
        else {"file": str(prediction.file), "emotion": None, "reason": prediction.reason}
        for prediction in predictions
    ]
    print(json.dumps(documents, indent=1))
    return predictions


def _print_table(predictions: Iterable[Prediction], model: str) -> list[Prediction]:
    """Print a line for each file that can be read, as soon as it is judged."""
    judged: list[Prediction] = []
    for prediction in predictions:
        if prediction.emotion is not None:
            if not any(earlier.emotion for earlier in judged):
                print(f"by {prediction.by}, model {model}")
                print("  ".join(["emotion".ljust(9), *(name.rjust(5) for name in SHORT), "file"]))
            numbers = "  ".join(f"{prediction.probabilities[name]:5.2f}" for name in EMOTIONS)
            print(f"{prediction.emotion:<9}  {numbers}  {prediction.file}", flush=True)
        judged.append(prediction)
    return judged
