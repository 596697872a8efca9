"""Outputs of backbones' frozen stages: computed once for a store, then read by every run. Where the
whole backbone is frozen, these are its features, (N, F); where its last stage is trained, the maps
that enter that, (N, H', W', C').

A file is float32 and is named by all that decides its contents: the store's fingerprint, the
backbone, its weights' sha256, whether it holds maps, the images' number and size. Maps in half
precision would take half the disk, but a finished model reads images: its answers would differ by
more than 1e-5 from those that were validated on maps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fdan.device import full_precision
from fdan.files import write_atomic
from fdan.lock import wait_for_lock
from fdan.model.backbones import Backbone, Weights, build_backbone, map_shape
from fdan.run_config import FEATURES

if TYPE_CHECKING:
    from fdan.data.store import Store

# On a CPU, what the first layers of more put out (32 MB and beyond) would be asked of the system
# anew each time: half as long again at 96 x 96 pixels.
_AT_ONCE: Final = {"cpu": 32, "cuda": 64}

Progress = Callable[[int, int], None]  # called with the number of images that are done and of all
Floats = npt.NDArray[np.float32]


def cached_features(
    store: Store,
    weights: Weights,
    cache: Path,
    device: torch.device,
    progress: Progress | None = None,
) -> Floats:
    """(N, F) float32, memory-mapped, of the store's images in their order.

    The first process computes them; others that want them meanwhile wait. WeightsError: the
    weights do not fit the backbone.

    Args:
        store: The store.
        weights: Weights of the backbone.
        cache: The folder that keeps features.
        device: Device that computes them.
        progress: Callback during computation.
    """
    output = _Output("", (FEATURES[weights.backbone],), Backbone.forward)
    return _cached(output, store, weights, cache, device, progress)


def cached_maps(
    store: Store,
    weights: Weights,
    cache: Path,
    device: torch.device,
    progress: Progress | None = None,
) -> Floats:
    """(N, H', W', C') float32, memory-mapped: the maps that enter the last stage. Otherwise as
    `cached_features`.

    Args:
        store: The store.
        weights: Weights of the backbone.
        cache: The folder that keeps maps.
        device: Device that computes them.
        progress: Callback during computation.
    """
    _, height, width, _ = store.images.shape
    output = _Output("-maps", map_shape(weights.backbone, height, width), Backbone.maps)
    return _cached(output, store, weights, cache, device, progress)


class _Output(NamedTuple):
    """What a backbone computes of images."""

    kind: str  # in a file's name
    shape: tuple[int, ...]  # of one image's
    compute: Callable[[Backbone, Tensor], Tensor]


def _cached(
    output: _Output,
    store: Store,
    weights: Weights,
    cache: Path,
    device: torch.device,
    progress: Progress | None,
) -> Floats:
    n, height, width, _ = store.images.shape
    shape = (n, *output.shape)
    names = (store.fingerprint[:24], weights.backbone, weights.sha256[:16])
    file = cache / f"{'-'.join(names)}{output.kind}-{n}x{height}x{width}.npy"

    def compute(path: Path) -> None:
        backbone = build_backbone(weights).to(device).eval()
        pixels, at_once = as_tensor(store.images), _AT_ONCE[device.type]
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        try:
            with torch.inference_mode(), full_precision():
                for start in range(0, n, at_once):
                    batch = pixels[start : start + at_once].to(device)
                    computed = output.compute(backbone, batch)
                    out[start : start + len(batch)] = computed.cpu().numpy()
                    if progress is not None:
                        progress(start + len(batch), n)
            out.flush()
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()  # trials of other processes train there

    if (features := _open(file, shape)) is None:
        cache.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(file.with_name(f"{file.name}.lock")):
            if _open(file, shape) is None:
                write_atomic(file, compute)
        features = _open(file, shape)
    assert features is not None
    return features


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """A tensor on the array's own memory, which may be a read-only map."""
    with warnings.catch_warnings():
        # Nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _open(file: Path, shape: tuple[int, ...]) -> Floats | None:
    """The file's array, or None if there is none of this shape."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.float32 else None
