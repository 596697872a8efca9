"""Cross-attention between the samples of two modalities (paper, Eq. 2-4).

The tokens are the samples of a batch: each speech sample attends to all face samples and each
face sample to all speech samples, whatever utterance they come from.

Shapes: V visual samples, A acoustic samples, T receiving samples, S sending samples, D features,
H heads, E = D / H features a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ModalityLayer(nn.Module):
    """One modality's part of a layer: W^Q, W^K, W^V of Eq. 2, and the two LayerNorms and the FFN of
    Eq. 4.

    The projections have no bias, as in Eq. 2. There is no output projection after the heads, so
    that one head is exactly Eq. 3.
    """

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        assert width % heads == 0, "ModelConfig checks this"
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.norm_message = nn.LayerNorm(width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn * width), nn.ReLU(), nn.Linear(ffn * width, width)
        )

    def attend(self, z_TD: Tensor, sender: ModalityLayer, z_SD: Tensor) -> Tensor:
        """Delta Z of Eq. 3, (T, D): what the samples z_TD of this modality receive from z_SD."""
        q_HTE, k_HSE, v_HSE = (
            projected.unflatten(1, (self.heads, -1)).transpose(0, 1)
            for projected in (self.query(z_TD), sender.key(z_SD), sender.value(z_SD))
        )
        weights_HTS = torch.softmax(q_HTE @ k_HSE.transpose(1, 2) * q_HTE.shape[2] ** -0.5, dim=2)
        delta_TD: Tensor = (weights_HTS @ v_HSE).transpose(0, 1).flatten(1)
        return delta_TD

    def transform(self, z_TD: Tensor, delta_TD: Tensor | None) -> Tensor:
        """Eq. 4, (T, D); None leaves Delta Z out."""
        z_TD = self.norm_message(z_TD if delta_TD is None else z_TD + delta_TD)
        out: Tensor = self.norm_ffn(z_TD + self.ffn(z_TD))
        return out


class CrossAttention(nn.Module):
    """One layer: both modalities attend to each other, then each is transformed (Eq. 2-4)."""

    def __init__(self, width: int, heads: int = 1, ffn: int = 2) -> None:
        super().__init__()
        self.visual = ModalityLayer(width, heads, ffn)
        self.acoustic = ModalityLayer(width, heads, ffn)

    def forward(self, z_VD: Tensor, z_AD: Tensor) -> tuple[Tensor, Tensor]:
        """(V, D) and (A, D) of layer i - 1 to those of layer i."""
        to_visual_VD = self.visual.attend(z_VD, self.acoustic, z_AD)
        to_acoustic_AD = self.acoustic.attend(z_AD, self.visual, z_VD)
        return self.visual.transform(z_VD, to_visual_VD), self.acoustic.transform(
            z_AD, to_acoustic_AD
        )

    def acoustic_only(self, z_AD: Tensor, z_VD: Tensor | None) -> Tensor:
        """The acoustic half of the layer, (A, D): each sample of layer i - 1 attends to the bank's
        faces alone; None passes attention by."""
        delta_AD = None if z_VD is None else self.acoustic.attend(z_AD, self.visual, z_VD)
        return self.acoustic.transform(z_AD, delta_AD)
