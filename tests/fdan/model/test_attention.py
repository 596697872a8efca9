"""Cross-attention against loops over Eq. 2-4."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fdan.model.attention import CrossAttention, ModalityLayer


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    out = [
        (value - mean) / torch.sqrt(variance + norm.eps) * w + b
        for value, w, b in zip(x, norm.weight, norm.bias, strict=True)
    ]
    return torch.stack(out)


def matrix_times(w: Tensor, x: Tensor) -> Tensor:
    return torch.stack([sum(a * b for a, b in zip(row, x, strict=True)) for row in w])


def update_by_loops(z: Tensor, side: ModalityLayer, other: Tensor, sender: ModalityLayer) -> Tensor:
    """Eq. 2-4 for every sample of one modality, one number at a time."""
    width = z.shape[1]
    size = width // side.heads
    updated = []
    for sample in z:
        query = matrix_times(side.query.weight, sample)
        keys = [matrix_times(sender.key.weight, s) for s in other]
        values = [matrix_times(sender.value.weight, s) for s in other]
        delta = torch.zeros(width, dtype=z.dtype)
        for h in range(side.heads):
            part = range(h * size, (h + 1) * size)
            score = [sum(query[i] * key[i] for i in part) / math.sqrt(size) for key in keys]
            exps = [torch.exp(s) for s in score]
            for e, value in zip(exps, values, strict=True):
                for i in part:
                    delta[i] = delta[i] + e / sum(exps) * value[i]
        first = layer_norm(sample + delta, side.norm_message)
        inner, _, outer = side.ffn
        hidden = torch.clamp(matrix_times(inner.weight, first) + inner.bias, min=0)
        after = matrix_times(outer.weight, hidden) + outer.bias
        updated.append(layer_norm(first + after, side.norm_ffn))
    return torch.stack(updated)


def layer(width: int = 6, heads: int = 1, ffn: int = 2) -> CrossAttention:
    torch.manual_seed(0)
    made = CrossAttention(width, heads, ffn).double()
    for parameter in made.parameters():  # LayerNorm's ones and zeros would hide a mistake
        torch.nn.init.normal_(parameter, 0.2, 0.7)
    return made


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("heads", "ffn"), [(1, 2), (2, 1), (3, 4), (6, 2)])
def test_a_layer_is_that_of_the_equations(heads: int, ffn: int) -> None:
    made = layer(heads=heads, ffn=ffn)
    z_v, z_a = random(5, 6), random(3, 6)
    with torch.no_grad():
        found_v, found_a = made(z_v, z_a)
        expected_v = update_by_loops(z_v, made.visual, z_a, made.acoustic)
        expected_a = update_by_loops(z_a, made.acoustic, z_v, made.visual)
    torch.testing.assert_close(found_v, expected_v, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found_a, expected_a, rtol=1e-10, atol=1e-10)


def test_listening_is_the_acoustic_half_of_a_layer() -> None:
    made = layer(heads=2)
    z_v, z_a = random(5, 6), random(4, 6)
    torch.testing.assert_close(made.acoustic_only(z_a, z_v), made(z_v, z_a)[1])
    for i in range(4):
        torch.testing.assert_close(made.acoustic_only(z_a[i : i + 1], z_v)[0], made(z_v, z_a)[1][i])


def test_without_a_message_only_delta_is_left_out() -> None:
    made = layer()
    z_a = random(4, 6)
    # Faces whose values are all zero say nothing.
    with torch.no_grad():
        silent = layer()
        silent.visual.value.weight.zero_()
        torch.testing.assert_close(
            made.acoustic_only(z_a, None), silent.acoustic_only(z_a, random(5, 6))
        )


def test_the_order_of_senders_does_not_matter_and_that_of_receivers_is_kept() -> None:
    made = layer(heads=3)
    z_v, z_a = random(5, 6), random(4, 6)
    order = torch.tensor([3, 1, 4, 0, 2])
    v, a = made(z_v, z_a)
    v_moved, a_moved = made(z_v[order], z_a)
    torch.testing.assert_close(a_moved, a)
    torch.testing.assert_close(v_moved, v[order])


def test_projections_have_no_bias_and_modalities_share_nothing() -> None:
    made = layer()
    for side in (made.visual, made.acoustic):
        assert all(part.bias is None for part in (side.query, side.key, side.value))
    shared = {id(p) for p in made.visual.parameters()} & {id(p) for p in made.acoustic.parameters()}
    assert not shared
