"""Random changes of training images, on the device that holds them.

The random numbers come from outside, uniform in 0 .. 1, one row a sample: the same numbers give
the same images on every device.

Shapes: B images, H rows (mel bands, low to high or high to low), W columns (time), C channels.
"""

from typing import Final

import torch
from torch import Tensor

DRAWS: Final = {"acoustic": 4, "visual": 3}  # random numbers a sample

# At most these shares of an image.
_TIME_MASK: Final = 0.2
_MEL_MASK: Final = 0.15
_SHIFT: Final = 0.08


def augment(modality: str, images: Tensor, draws: Tensor) -> Tensor:
    """Change images as their modality allows.

    Args:
        modality: One of MODALITIES: speech is masked, faces are shifted and mirrored.
        images: (B, H, W, C), uint8.
        draws: (B, DRAWS[modality]), uniform in 0 .. 1.
    """
    return _mask(images, draws) if modality == "acoustic" else _shift_flip(images, draws)


def _mask(images: Tensor, draws: Tensor) -> Tensor:
    """SpecAugment (Park et al. 2019) without its warping: one span of time and one of mel bands
    take the image's mean."""
    _, height, width, _ = images.shape
    columns = _span(width, _TIME_MASK, draws[:, 0], draws[:, 1])[:, None, :]
    rows = _span(height, _MEL_MASK, draws[:, 2], draws[:, 3])[:, :, None]
    mean = images.float().mean((1, 2, 3), keepdim=True).to(images.dtype)
    return torch.where((columns | rows)[..., None], mean, images)


def _span(length: int, share: float, size: Tensor, place: Tensor) -> Tensor:
    """(B, length), true inside a span of up to `share` of the length."""
    size = size * share * length
    start = place * (length - size)
    at = torch.arange(length, device=size.device)
    return (at >= start[:, None]) & (at < (start + size)[:, None])


def _shift_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Faces move by a few pixels, their edge repeated, and every other one is mirrored."""
    count, height, width, _ = images.shape
    rows = torch.arange(height, device=images.device) + _offset(height, draws[:, 0])
    columns = torch.arange(width, device=images.device) + _offset(width, draws[:, 1])
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(draws[:, 2:3] < 0.5, columns.flip(1), columns)
    image = torch.arange(count, device=images.device)
    return images[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def _offset(length: int, draw: Tensor) -> Tensor:
    return ((draw * 2 - 1) * _SHIFT * length).round().long()[:, None]
