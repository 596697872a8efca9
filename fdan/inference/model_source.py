"""Sources of a model: a folder, an ONNX file, or a registry's address.

An address such as models:/fdan@champion is opened by an entry point of the group `fdan.models`: its
name is the scheme, its value takes the address and gives a local folder. So fdan knows no registry.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fdan.errors import DeviceError, WeightsError
from fdan.machine.libraries import why_not_loaded

if TYPE_CHECKING:
    from fdan.inference.model_folder import SpeechModel
    from fdan.inference.onnx_model import OnnxModel

Model: TypeAlias = "SpeechModel | OnnxModel"
Facts: TypeAlias = dict[str, Any]  # content of model.json

FACTS: Final = "model.json"  # every model's folder holds it
SERVED: Final = "served.json"  # may lie beside it: {"name", "version"} of the model in a registry

_GROUP: Final = "fdan.models"
_ADDRESS: Final = re.compile(r"([a-z][a-z0-9+.-]*):")


def find_model(name: str) -> Path:
    """The folder or ONNX file that a name or address stands for. WeightsError: there is none, or
    no entry point for the address."""
    path, address = Path(name), _ADDRESS.match(name)
    if not address or path.exists():
        return path if path.is_file() else model_folder(path)
    scheme = address[1]
    for entry in entry_points(group=_GROUP, name=scheme):
        try:
            folder = Path(entry.load()(name))
        except ImportError as error:
            reason = why_not_loaded(error.name or entry.module, error)
            raise WeightsError(f"model {name}: opening {scheme}: addresses {reason}") from None
        return model_folder(folder)
    raise WeightsError(
        f"model {name}: nothing installed here opens {scheme}: addresses; name a model's folder or"
        " ONNX file, or install fdan-search whole"
    )


def model_folder(folder: Path) -> Path:
    """A folder that `train` wrote holds the model beside its checkpoint. Raises WeightsError."""
    for place in (folder / "model", folder):
        if (place / FACTS).is_file():
            return place
    raise WeightsError(
        f"model {folder}: there is no {FACTS} in it; name a folder that train or a search wrote"
    )


def open_model(path: Path, device: str = "cpu") -> Model:
    """A model, ready to answer. WeightsError: it is damaged. DeviceError: this machine, or ONNX,
    does not have the device.

    Args:
        path: Path from find_model. Torch is imported for a folder only.
        device: Device name: cpu, cuda ... or auto.
    """
    if path.is_file():
        from fdan.inference.onnx_model import OnnxModel

        if device not in ("auto", "cpu"):
            raise DeviceError(f"device {device}: an ONNX model runs on the CPU; leave out --device")
        return OnnxModel.read(path)
    from fdan.inference.model_folder import read_model

    return read_model(path, device)


def describe_model(name: str, path: Path, facts: Facts) -> str:
    """The answering model in a line: its name, and study and trial if a search made it.

    Args:
        name: The user's name of it; a registry's name and version come first.
        path: Path from find_model.
        facts: The model's facts.
    """
    served = registered_as(path) if path.is_dir() else facts.get("served", {})
    made = f"{served['name']} version {served['version']}" if served else name
    if "study" in facts:
        made += f" (study {facts['study']}, trial {facts.get('trial', '?')})"
    return " ".join(made.split())


def registered_as(folder: Path) -> dict[str, str]:
    """{"name", "version"} of a model that came from a registry, else {}. Raises WeightsError."""
    file = folder / SERVED
    try:
        served = json.loads(file.read_text(encoding="utf-8"))
        return {key: str(served[key]) for key in ("name", "version")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is damaged ({type(error).__name__})") from None
