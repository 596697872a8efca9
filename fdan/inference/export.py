"""A model's folder as one ONNX file, which is shown to answer alike before it is written."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn

from fdan.errors import ConfigError, DataError, WeightsError
from fdan.files import sha256_file, write_atomic
from fdan.inference.model_folder import TENSORS, SpeechModel, read_model
from fdan.inference.model_source import registered_as
from fdan.inference.onnx_model import IMAGES, PROBABILITIES, OnnxModel, metadata
from fdan.media.pixels import image_shape, settings_from_dict

if TYPE_CHECKING:
    import onnx

TOLERANCE: Final = 1e-5  # tolerance of the probabilities of noise, against torch's

_STRIPES_TOLERANCE: Final = 1e-4
"""The same for stripes. No emotion is certain for them, so float32's rounding shows:
behind an untrained backbone, torch's own answers to an image alone and in a batch differ by up to
3e-5 (1e-7 in the middle)."""

_COUNTS: Final = (1, 2, 7)  # images at once
_OPSET: Final = 20


class _SpeechProbabilities(nn.Module):
    """SpeechModel.probabilities for speech, with the bank's features as constants."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.network = model.network
        self.bank = model.bank

    def forward(self, images: Tensor) -> Tensor:
        features = self.network.features("acoustic", images)
        return torch.softmax(self.network.head.predict(features, self.bank), dim=1)


def export(folder: Path, file: Path) -> float:
    """Write a model as an ONNX file, whole or not at all. Returns the largest difference from
    torch's probabilities on images of noise, at most TOLERANCE.

    Input `images`: (N, H, W, 1) uint8, prepared as the metadata say; N is free. Output
    `probabilities`: (N, 7) float32.

    Args:
        folder: The model's folder.
        file: The ONNX file; an old one is replaced.

    Raises:
        WeightsError: The folder holds no whole model, or the file would answer otherwise.
        ConfigError: `file` cannot be written there.
    """
    if file.suffix != ".onnx":
        raise ConfigError(f"{file}: name a file that ends in .onnx")
    if not file.parent.is_dir() or file.is_dir():
        raise ConfigError(f"{file}: no such folder, or a folder itself; name a new file")
    model = read_model(folder)
    try:
        stored = model.facts["preparation"]["acoustic"]
        shape = image_shape(settings_from_dict("acoustic", stored))
    except (KeyError, TypeError, AttributeError):
        raise WeightsError(f"model {folder} does not say how its speech was prepared") from None
    except DataError as error:
        raise WeightsError(f"model {folder}: {error}") from None
    proto = _graph(model, shape)
    served = registered_as(folder)
    facts = {**model.facts, "served": served} if served else model.facts
    stored = {**metadata(facts), "model_sha256": sha256_file(folder / TENSORS)}
    for name, value in stored.items():
        proto.metadata_props.add(key=name, value=value)
    noise = 0.0

    def write(path: Path) -> None:
        nonlocal noise
        path.write_bytes(proto.SerializeToString(deterministic=True))
        noise, stripes = _differences(model, OnnxModel.read(path), shape)
        if not (noise <= TOLERANCE and stripes <= _STRIPES_TOLERANCE):
            raise WeightsError(
                f"model {folder}: its ONNX form answers otherwise than torch (probabilities differ"
                f" by {noise:.2g} on noise, {stripes:.2g} on stripes), so nothing was written"
            )

    write_atomic(file, write, sync=True)
    return noise


def _graph(model: SpeechModel, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """The model without what the exporter records of our source files."""
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    # The exporter warns and logs about its own insides.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            _SpeechProbabilities(model).eval(),
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[IMAGES],
            output_names=[PROBABILITIES],
            dynamic_shapes={IMAGES: {0: torch.export.Dim("N")}},
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for node in [*proto.graph.node, *(node for f in proto.functions for node in f.node)]:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    proto.graph.ClearField("metadata_props")
    proto.ClearField("metadata_props")
    return proto


def _differences(
    model: SpeechModel, exported: OnnxModel, shape: tuple[int, int, int]
) -> tuple[float, float]:
    """The largest ones in the probabilities of images of noise, and of horizontal stripes."""
    random = np.random.default_rng(0)
    largest: list[list[float]] = [[], []]
    for count in _COUNTS:
        noise = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        lines = random.integers(0, 256, (count, shape[0], 1, 1), dtype=np.uint8)
        for kind, images in enumerate((noise, np.broadcast_to(lines, noise.shape))):
            difference = model.probabilities(images) - exported.probabilities(images)
            largest[kind].append(float(np.abs(difference).max()))
    return float(np.max(largest[0])), float(np.max(largest[1]))  # NaN if one is
