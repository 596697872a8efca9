"""What passes for a pickle, and what does not."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from fdan.errors import FdanError
from tracking.registry.pickle_scan import check_no_pickle, pickle_reason

OBJECTS: list[Any] = [None, {"a": [1, 2.5]}, list(range(5000)), len, b"x" * 70_000, "y" * 300]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_seen(protocol: int, tmp_path: Path) -> None:
    for number, thing in enumerate(OBJECTS):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(pickle.dumps(thing, protocol=protocol))
        assert pickle_reason(file) == "is a pickle", thing


def _numpy_objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return file.getvalue()


_HARM = b"cposix\nsystem\n(S'true'\ntR."
# Opcodes of which the first nine bytes are also a length and the brace of a safetensors header.
_AS_TENSORS = b"B\x04\0\0\0\0\0\0{0" + _HARM


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.safetensors", _AS_TENSORS + bytes(2000), "is a pickle"),
        ("ends.safetensors", _AS_TENSORS[:-1] + b"0N" * 1000 + b".", "is a pickle"),
        ("unmarked.json", b"\x8c\5posix\x8c\6system\x93N\x85R. ", "is a pickle"),
        ("text-behind.json", _HARM + b"\n{}", "is a pickle"),
        ("model.PKL", b"", "is named .pkl"),
        ("model.joblib", b"", "is named .joblib"),
        ("weights.pt", b"", "is named .pt"),
        ("pytorch_model.bin", b"", "is named .bin"),
        ("arrays.npz", b"", "is named .npz"),
        ("objects.npy", _numpy_objects(), "NumPy array of pickled objects"),
        ("model.json", _zip(), "is a zip archive"),
        ("goes-on.json", pickle.dumps({"a": 1}) + b"something behind it", "is a pickle"),
    ],
)
def test_disguises(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / name
    file.write_bytes(content)
    assert why in pickle_reason(file)
    with pytest.raises(FdanError, match="never a pickle"):
        check_no_pickle(tmp_path)


def test_what_is_none(finished: Path, tmp_path: Path) -> None:
    """Every file of a study, prepared data and sounds included; plain arrays; text; and tensors
    whose header is as long as a pickle's first bytes say."""
    np.save(tmp_path / "plain.npy", np.zeros(3))
    (tmp_path / "empty").touch()
    (tmp_path / "dot").write_text(".")
    (tmp_path / "sentence.txt").write_text("torch>=2.6 and no more.")
    (tmp_path / "none.txt").write_text("N. N., whose name is not known")
    (tmp_path / "zeros.txt").write_text("0" * 100_000)
    for length in (0x280, 0x580):
        content = safetensors.numpy.save({"a": np.zeros(2, np.float32)})
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].ljust(length)
        (tmp_path / f"{length}.safetensors").write_bytes(
            length.to_bytes(8, "little") + header + bytes(8)
        )
    check_no_pickle(tmp_path)
    check_no_pickle(finished)
