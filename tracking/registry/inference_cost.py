"""Cost of an answer: the one measure by which a model is cheaper than another."""

from __future__ import annotations

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from fdan.inference.model_folder import SpeechModel
from fdan.media.pixels import image_shape, settings_from_dict


def multiply_adds(model: SpeechModel) -> int:
    """Multiply-adds of the network for one utterance, counted while it answers: backbone,
    bottleneck, attention to the bank, classifier, at the size of image that it was trained with.

    Counted, not timed: the same on every machine. Additions alone, norms and activations are left
    out, as is preparing the sound.
    """
    settings = settings_from_dict("acoustic", model.facts["preparation"]["acoustic"])
    images = np.zeros((1, *image_shape(settings)), np.uint8)
    with FlopCounterMode(display=False) as counter:
        model.probabilities(images)
    return int(counter.get_total_flops()) // 2  # a multiply-add is two operations
