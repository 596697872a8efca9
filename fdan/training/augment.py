"""Random changes of training images, or of the maps of them, on the device that holds them.

The random numbers come from outside, uniform in 0 .. 1, one row a sample: the same numbers give
the same images on every device.

Shapes: B images or maps, H rows (mel bands, low to high or high to low), W columns (time), C
channels.
"""

from typing import Final

import torch
from torch import Tensor

DRAWS: Final = {"acoustic": 8, "visual": 4}
"""Random numbers a sample; the last one is its share in `mix`."""

FIRST_DRAWS: Final = {"acoustic": 4, "visual": 3}
"""Those that are drawn first: with the others came no other masks, shifts and flips."""

# At most these shares of an image.
_TIME_MASK: Final = 0.2
_MEL_MASK: Final = 0.15
_SHIFT: Final = 0.08
_GAIN: Final = 0.2  # of an image's values, up or down


def augment(modality: str, images: Tensor, draws: Tensor, moves: bool = False) -> Tensor:
    """Change images as their modality allows.

    Args:
        modality: One of MODALITIES: speech is masked; faces are shifted and mirrored.
        images: (B, H, W, C), uint8.
        draws: (B, DRAWS[modality]), uniform in 0 .. 1.
        moves: Speech is shifted in time and frequency, too, and made louder or softer.
    """
    if modality == "visual":
        return _shift(images, draws[:, 0], draws[:, 1], draws[:, 2] < 0.5)
    if not moves:
        return _mask(images, draws)
    images = _mask(_shift(images, draws[:, 4], draws[:, 5]), draws)
    gain_B = 1 + _GAIN * (2 * draws[:, 6] - 1)
    return (images * gain_B[:, None, None, None]).clamp_max(255)


def augment_maps(modality: str, maps: Tensor, draws: Tensor) -> Tensor:
    """Change the maps that enter a last stage as `augment` changes images, as far as that goes: in
    whole cells, each of which has seen its surroundings, too. Faces are mirrored, and shifted where
    a shift reaches a cell, in maps of 7 or more; in speech, masked cells take their channel's mean.

    Args:
        modality: One of MODALITIES.
        maps: (B, H, W, C), float.
        draws: (B, DRAWS[modality]), uniform in 0 .. 1.
    """
    if modality == "visual":
        return _shift(maps, draws[:, 0], draws[:, 1], draws[:, 2] < 0.5)
    # A column or row is masked if its middle is: one of four is as often as 16 of 64.
    masked = _masked(maps, draws, middle=0.5)
    return torch.where(masked, maps.mean((1, 2), keepdim=True), maps)


def mix(inputs: Tensor, y_B: Tensor, share_B: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): each sample with the one before it in its batch, which is in
    random order. Returns the inputs, and the targets as shares of the classes, (B, classes).

    Args:
        inputs: (B, ...), images, maps or features.
        y_B: Classes.
        share_B: Share of a sample in what becomes of it; the rest is the other's.
        classes: Number of classes.
    """
    own = share_B.view(-1, *[1] * (inputs.ndim - 1))
    inputs = inputs.float()
    y_BC = (y_B[:, None] == torch.arange(classes, device=y_B.device)).float()
    share_B1 = share_B[:, None]
    mixed_BC = share_B1 * y_BC + (1 - share_B1) * y_BC.roll(1, 0)
    return own * inputs + (1 - own) * inputs.roll(1, 0), mixed_BC


def _mask(images: Tensor, draws: Tensor) -> Tensor:
    """SpecAugment (Park et al. 2019) without its warping: one span of time and one of mel bands
    take the image's mean."""
    mean = images.float().mean((1, 2, 3), keepdim=True).to(images.dtype)
    return torch.where(_masked(images, draws), mean, images)


def _masked(images: Tensor, draws: Tensor, middle: float = 0.0) -> Tensor:
    """(B, H, W, 1), true where a span of time or of mel bands is masked."""
    _, height, width, _ = images.shape
    columns = _span(width, _TIME_MASK, draws[:, 0], draws[:, 1], middle)[:, None, :]
    rows = _span(height, _MEL_MASK, draws[:, 2], draws[:, 3], middle)[:, :, None]
    return (columns | rows)[..., None]


def _span(length: int, share: float, size: Tensor, place: Tensor, middle: float) -> Tensor:
    """(B, length), true inside a span of up to `share` of the length. middle: The point of a row or
    column, 0 .. 1, that has to be inside."""
    size = size * share * length
    start = place * (length - size)
    at = torch.arange(length, device=size.device)
    if middle:
        at = at + middle
    return (at >= start[:, None]) & (at < (start + size)[:, None])


def _shift(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Images move by a few pixels, their edge repeated; those that are `mirrored` are."""
    count, height, width, _ = images.shape
    rows = torch.arange(height, device=images.device) + _offset(height, down)
    columns = torch.arange(width, device=images.device) + _offset(width, right)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    image = torch.arange(count, device=images.device)
    return images[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def _offset(length: int, draw: Tensor) -> Tensor:
    return ((draw * 2 - 1) * _SHIFT * length).round().long()[:, None]
