"""New files judged: each in bounded time and memory, by speech and by a face."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from fdan.__main__ import main
from fdan.errors import DataError, WeightsError
from fdan.inference import predict as module
from fdan.inference.model_folder import SpeechModel, read_model
from fdan.inference.model_source import describe_model, find_model
from fdan.inference.predict import BOTH, SPEECH, predict
from fdan.media.audio import LOUDEST
from fdan.media.pixels import read_pixels, settings_from_dict

Make = Callable[..., Path]
RATE = 16000


@pytest.fixture(scope="module")
def folder(new_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_model(tmp_path_factory.mktemp("a") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> SpeechModel:
    return read_model(folder)


def sound(path: Path, seconds: float = 1.0) -> Path:
    noise = np.random.default_rng(len(path.name)).normal(0, 0.1, round(seconds * RATE))
    soundfile.write(path, noise.astype(np.float32), RATE)
    return path


def picture(path: Path, side: int | None = None) -> Path:
    """A small one, which says that its sides are `side` pixels."""
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = bytearray(cv2.imencode(".jpg", image)[1])
    if side is not None:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = 2 * side.to_bytes(2, "big")
    path.write_bytes(data)
    return path


def endless(path: Path) -> Path:
    """A wav file of 16 hours, which takes no room on the disk and a while to read."""
    size = 16 * 3600 * RATE * 2
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
    return path


def test_files_are_judged_in_order_as_they_were_prepared(
    model: SpeechModel, tmp_path: Path
) -> None:
    files = [sound(tmp_path / f"{'a' * n}.wav", n) for n in (1, 2, 4)]
    found = list(predict(model, files))
    settings = settings_from_dict("acoustic", model.facts["preparation"]["acoustic"])
    for one, file in zip(found, files, strict=True):
        expected = model.probabilities(read_pixels(file, settings).images)[0]
        np.testing.assert_allclose(list(one.probabilities.values()), expected, atol=1e-6)
        assert (one.file, one.by) == (file, SPEECH)
        assert one.emotion == max(one.probabilities, key=one.probabilities.__getitem__)


def test_what_is_odd_about_a_file_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As preparing tells it; the answer stays the only thing on stdout."""
    plain, odd = sound(tmp_path / "a.wav"), tmp_path / "odd.wav"
    wave, rate = soundfile.read(plain)
    soundfile.write(odd, np.stack([wave, -wave], axis=1), rate)
    assert main(["predict", "--json", str(folder), str(plain), str(odd)]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{odd}: {LOUDEST}\n"
    assert [document["notes"] for document in json.loads(printed.out)] == [[], [LOUDEST]]


def test_a_file_that_cannot_be_read_is_its_own_reason(
    model: SpeechModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 1.0)
    (tmp_path / "b.wav").write_bytes(b"RIFF no more")
    (tmp_path / "e.wav").touch()
    files = [sound(tmp_path / "a.wav"), tmp_path / "b.wav", endless(tmp_path / "c.wav")]
    files += [sound(tmp_path / "d.wav"), tmp_path / "e.wav", tmp_path / "gone.wav"]
    found = list(predict(model, files))
    assert [one.emotion is not None for one in found] == [True, False, False, True, False, False]
    assert found[2].reason == "took longer than 1 s to read"
    assert found[4].reason == "is empty (0 bytes)"


def test_a_face_goes_with_the_speech(model: SpeechModel, tmp_path: Path) -> None:
    clip, face = sound(tmp_path / "a.wav"), picture(tmp_path / "a.jpg")
    (found,) = predict(model, [clip], face)
    images = read_pixels(
        clip, settings_from_dict("acoustic", model.facts["preparation"]["acoustic"])
    )
    faces = read_pixels(face, settings_from_dict("visual", model.facts["preparation"]["visual"]))
    expected = model.probabilities(images.images, [faces.images])[0]
    np.testing.assert_allclose(list(found.probabilities.values()), expected, atol=1e-6)
    assert found.by == BOTH
    (alone,) = predict(model, [clip])
    assert alone.probabilities != found.probabilities and alone.by == SPEECH


def test_a_face_that_eats_memory(model: SpeechModel, tmp_path: Path) -> None:
    face = picture(tmp_path / "a.jpg", side=30_000)
    with pytest.raises(DataError, match=r"a\.jpg: needs more than 2000 MB of memory"):
        list(predict(model, [sound(tmp_path / "a.wav")], face))


@pytest.mark.parametrize("preparation", [None, 3, {}, {"acoustic": 3}, {"acoustic": {"mels": "x"}}])
def test_a_model_that_does_not_say_how(preparation: object, folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    facts = json.loads((changed / "model.json").read_text())
    (changed / "model.json").write_text(json.dumps({**facts, "preparation": preparation}))
    with pytest.raises((WeightsError, DataError), match="prepared") as caught:
        list(predict(read_model(changed), [sound(tmp_path / "a.wav")]))
    assert "\n" not in str(caught.value)


# Where a model comes from


def test_a_name_that_looks_like_an_address(folder: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(folder, tmp_path / "models:champion")
    assert find_model(str(odd)) == odd
    with pytest.raises(WeightsError, match="nothing installed here opens nobodys: addresses"):
        find_model("nobodys:/fdan@champion")
    with pytest.raises(WeightsError, match=r"no model\.json in it"):
        find_model(str(tmp_path))


def test_the_model_is_named(folder: Path, tmp_path: Path) -> None:
    facts = {"study": "demo", "trial": 13}
    assert describe_model("runs/first", folder, {}) == "runs/first"
    assert (
        describe_model("runs/demo/best", folder, facts) == "runs/demo/best (study demo, trial 13)"
    )
    (tmp_path / "served.json").write_text('{"name": "fdan", "version": 3, "more": []}')
    assert describe_model("models:/fdan@champion", tmp_path, facts) == (
        "fdan version 3 (study demo, trial 13)"
    )
    (tmp_path / "served.json").write_text('{"name": ')
    with pytest.raises(WeightsError, match=r"served\.json is damaged"):
        describe_model("models:/fdan@champion", tmp_path, facts)
