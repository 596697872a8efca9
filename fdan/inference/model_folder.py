"""A finished model: `model.safetensors` and `model.json`, enough to name emotions in new speech.

The tensors are the head, both backbones and the bank; the JSON is the configuration, how images
were prepared, and whatever else is needed to say where the model came from. Code plus tensors,
never a pickle.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from fdan.device import choose_device
from fdan.emotions import EMOTIONS
from fdan.errors import FdanError, WeightsError, out_of_memory
from fdan.files import first_line
from fdan.inference.model_source import FACTS, Facts
from fdan.model.network import Bank, Network
from fdan.run_config import RunConfig

TENSORS: Final = "model.safetensors"
FORMAT: Final = 1
_IMAGES_AT_ONCE: Final = 64
_DAMAGE: Final = (
    *(OSError, RuntimeError, ValueError, KeyError, TypeError),
    safetensors.SafetensorError,
)
"""What a damaged or hostile file leads to."""


@dataclass(frozen=True)
class SpeechModel:
    """A network that goes by speech, and by faces where there are any."""

    network: Network
    bank: Bank | None
    run: RunConfig
    facts: Facts  # content of model.json

    def probabilities(
        self,
        images: npt.NDArray[np.uint8],
        faces: Sequence[npt.NDArray[np.uint8] | None] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Probabilities, (N, 7), in the order of EMOTIONS. A row depends on its own images alone.

        A row with faces is the renormalised mean of both modalities' log-probabilities, the faces'
        being the mean over the images. The paper predicts from speech alone, and a face passes
        attention by; on the demo corpus's validation speakers it still helps: UAR 0.71 by speech,
        0.95 by faces, 0.97 by both, the mean of four splits. Those faces are drawn and easier than
        people's.

        Args:
            images: (N, H, W, 1) log-mel images, prepared as `facts` says.
            faces: None, or (K, H, W, 3) faces of the speaker while speaking, for each of them.
        """
        assert faces is None or len(faces) == len(images)
        spoken = self._log_probabilities("acoustic", images)
        for row, shown in zip(spoken, faces or (), strict=False):
            if shown is not None:
                row += self._log_probabilities("visual", shown).mean(0)
                row /= 2
        chances = np.exp(spoken)
        rows: npt.NDArray[np.float64] = chances / chances.sum(1, keepdims=True)
        return rows

    def _log_probabilities(
        self, modality: str, images: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float64]:
        pixels, rows = torch.from_numpy(np.ascontiguousarray(images)), []
        head = self.network.head
        with torch.inference_mode():
            for batch in torch.split(pixels, _IMAGES_AT_ONCE):
                features = self.network.features(modality, batch.to(head.classifier.weight.device))
                if modality == "acoustic":
                    logits = head.predict(features, self.bank)
                else:
                    logits = head.predict_faces(features)
                rows.append(torch.log_softmax(logits.double(), dim=1).cpu())
        return torch.cat(rows).numpy() if rows else np.zeros((0, len(EMOTIONS)))


def read_model(folder: Path, device: str | torch.device = "cpu") -> SpeechModel:
    """Read a model's folder. Nothing in it is executed, and no file outside it is opened, whatever
    model.json names. WeightsError: it does not hold each tensor that its configuration needs, and
    no other, of the right shape and type and without NaN.

    Args:
        folder: Folder that write_model made.
        device: Device name: cpu, cuda ... or auto.
    """
    where = choose_device(device)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or facts["emotions"] != list(EMOTIONS):
            raise WeightsError(f"model {folder}: written by another version of fdan-search")
        run = RunConfig.from_mapping(facts["run"], FACTS)
        tensors = safetensors.torch.load_file(folder / TENSORS)
        with torch.device("meta"):  # the weights follow
            network = Network.from_config(run.model, images=True)
        _check(tensors, network, run)
        own = {k.removeprefix("model."): z for k, z in tensors.items() if k.startswith("model.")}
        network.load_state_dict(own, assign=True)
        bank = None
        if run.model.context == "bank":
            bank = tuple(tensors[f"bank.{i}"].to(where) for i in range(run.model.layers))
    except WeightsError:
        raise
    except FileNotFoundError as error:
        missing = Path(error.filename or TENSORS).name
        raise WeightsError(f"model {folder}: there is no {missing} in it") from None
    except FdanError as error:
        raise WeightsError(f"model {folder}: {error}") from None
    except _DAMAGE as error:
        if out_of_memory(error):
            raise
        raise WeightsError(f"model {folder} is damaged ({first_line(error, 120)})") from None
    network = network.to(memory_format=torch.channels_last).to(where).eval()
    return SpeechModel(network, bank, run, facts)


def _check(tensors: Mapping[str, Tensor], network: Network, run: RunConfig) -> None:
    """ValueError says which tensor does not fit this network."""
    wanted = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    banks = [f"bank.{i}" for i in range(run.model.layers if run.model.context == "bank" else 0)]
    for name in sorted(tensors.keys() ^ {*wanted, *banks}):
        raise ValueError(f"'{name}' is {'not of this model' if name in tensors else 'missing'}")
    for name, tensor in tensors.items():
        shape, kind = torch.Size([max([1, *tensor.shape[:1]]), run.model.width]), torch.float32
        if name in wanted:
            shape, kind = wanted[name].shape, wanted[name].dtype
        if tensor.shape != shape or tensor.dtype != kind:
            actual = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ValueError(f"'{name}' is {actual}, not {kind} {tuple(shape)}")
        # A feature that never varied is divided by infinity (fdan.model.network.Standardise).
        endless = name.startswith("model.head.standardise.") and name.endswith(".std")
        if (tensor.isnan() if endless else ~tensor.isfinite()).any():
            raise ValueError(f"'{name}' holds values that are no numbers")
