"""What an answer costs: the one measure by which a model is called cheaper than another."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from fdan.inference.model_folder import SpeechModel
from fdan.media.pixels import image_shape, settings_of


def multiply_adds(model: SpeechModel) -> int:
    """Multiply-adds of the network for one utterance, counted while it answers: backbone,
    bottleneck, attention to the bank, classifier, at the size of image that it was trained with.

    Counted, not timed: the same on every machine. Additions alone, norms and activations are left
    out, as is preparing the sound.
    """
    settings = settings_of("acoustic", model.facts["preparation"]["acoustic"])
    images = np.zeros((1, *image_shape(settings)), np.uint8)
    counting = _Counting()
    with counting:
        model.probabilities(images)
    return counting.operations // 2  # a multiply-add is two operations


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas for the operators that run inside.

    As torch's FlopCounterMode does, which imports torch's compiler for it: two seconds.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: int = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, so that the compiler need not be told to keep out."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # its parts, where it has any
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.operations += formula(*args, **kwargs, out_val=out)
        return out
