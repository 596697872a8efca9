"""What `python -m fdan predict` and `export` do: a finished model at work."""

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
    """Emotions of new files. Exit code 2 if none of them can be read; those that cannot are named
    on stderr."""
    name, paths = arguments.model, [Path(path) for path in arguments.paths]
    if name is None:
        if len(paths) < 2:
            raise ConfigError("name a model (or give it with --model) and files to judge")
        name, paths = str(arguments.paths[0]), paths[1:]
    elif not paths:
        raise ConfigError("name audio or video files to judge")
    place = find_model(name)
    files = speech_files(paths)
    face: Path | None = arguments.face
    if face is not None and len(files) != 1:
        raise ConfigError(f"--face goes with exactly one speech file, here are {len(files)}")
    if face is not None and not face.is_file():
        raise DataError(f"face {face}: no such file")
    model = open_model(place, arguments.device)
    answering = describe_model(name, place, model.facts)
    found = run_prediction(model, files, face)
    predictions = _as_json(found, answering) if arguments.json else _as_table(found, answering)
    failed = [one for one in predictions if one.emotion is None]
    for one in failed if len(failed) < len(predictions) else failed[1:]:
        print(f"passed over {one.file}: {one.reason}", file=sys.stderr)
    if len(failed) == len(predictions):
        raise DataError(f"{failed[0].file}: {failed[0].reason}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a model as ONNX."""
    place = find_model(arguments.model)
    if place.is_file():
        raise WeightsError(
            f"model {place}: is a file; name the folder that train or a search wrote"
        )
    from fdan.inference.export import export as write

    apart = write(place, arguments.file)
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB; probabilities of noise are torch's to {apart:.0e}")
    print(f"next: python -m fdan predict {arguments.file} clip.wav")
    return 0


def _as_json(found: Iterable[Prediction], model: str) -> list[Prediction]:
    """One document, on stdout."""
    predictions = list(found)
    listed = [
        {
            "file": str(one.file),
            "emotion": one.emotion,
            "probabilities": one.probabilities,
            "by": one.by,
            "model": model,
        }
        if one.emotion
        else {"file": str(one.file), "emotion": None, "reason": one.reason}
        for one in predictions
    ]
    print(json.dumps(listed, indent=1))
    return predictions


def _as_table(found: Iterable[Prediction], model: str) -> list[Prediction]:
    """A line a file as it is judged, files that cannot be read left out."""
    predictions: list[Prediction] = []
    headed = False
    for one in found:
        predictions.append(one)
        if one.emotion is None:
            continue
        if not headed:
            print(f"by {one.by}, model {model}")
            print("  ".join(["emotion".ljust(9), *(short.rjust(5) for short in SHORT), "file"]))
            headed = True
        chances = "  ".join(f"{one.probabilities[emotion]:5.2f}" for emotion in EMOTIONS)
        print(f"{one.emotion:<9}  {chances}  {one.file}", flush=True)
    return predictions
