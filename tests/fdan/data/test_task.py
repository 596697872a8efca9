"""Tasks over several stores."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fdan.corpora import Source
from fdan.data.prepare import prepare
from fdan.data.store import Store
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.errors import DataError
from fdan.media.faces import FaceSettings

Make = Callable[..., Store]


def faces(folder: Path, corpus: str, *names: str, size: int = 16) -> Store:
    for number, name in enumerate(names):
        file = folder / corpus / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = 40 * number + np.arange(20)[:, None, None].repeat(20, 1).repeat(3, 2)
        cv2.imwrite(str(file), picture.astype(np.uint8))
    source = Source(corpus, folder / corpus, "visual")
    return prepare(source, FaceSettings(face_size=size), folder / "stores", workers=1)


def made(corpus: str, modality: str, labels: list[int]) -> Store:
    """A store as open_store gives it, without its files."""
    count, channels = len(labels), 1 if modality == "acoustic" else 3
    return Store(
        folder=Path(f"/{corpus}-{modality}"),
        corpus=corpus,
        modality=modality,
        settings={"size": 4, "version": 1},
        fingerprint=f"{corpus}{modality}",
        images=np.arange(count * 16 * channels).astype(np.uint8).reshape(count, 4, 4, channels),
        emotions=np.array(labels, np.int64),
        speakers=[None] * count,
        utterances=[f"{corpus}{at}" for at in range(count)],
        parts=[None] * count,
        files=[f"{corpus}{at}" for at in range(count)],
        contents=[f"{corpus}{at}" for at in range(count)],
        unreadable=[],
        problems=[],
        counts={},
    )


def test_the_papers_names() -> None:
    savee_a, savee_v = made("savee", "acoustic", [0, 1]), made("savee", "visual", [0, 1])
    meld_a, meld_v = made("meld", "acoustic", [0, 1]), made("meld", "visual", [0, 1])
    assert Task((savee_a,), (savee_v, meld_v)).name == "SAVEE{Sv,Mv,Sa}"
    assert Task((meld_a,), (savee_v, meld_v)).name == "MELD{Sv,Mv,Ma}"
    assert Task((savee_a, meld_a), (savee_v,)).name == "SAVEE+MELD{Sv,Sa,Ma}"


def test_samples_and_images_in_order() -> None:
    one, two = made("savee", "visual", [6, 5, 4]), made("meld", "visual", [3, 2])
    task = Task((made("savee", "acoustic", [0, 1]),), (one, two))
    samples = task.samples("visual")
    assert samples.labels.tolist() == [6, 5, 4, 3, 2] and len(samples) == 5
    assert samples.corpora == ("savee", "savee", "savee", "meld", "meld")
    assert samples.utterances == ("savee0", "savee1", "savee2", "meld0", "meld1")
    images = task.images("visual", np.array([4, 0, 2, 3, 4]))
    expected = [two.images[1], one.images[0], one.images[2], two.images[0], two.images[1]]
    np.testing.assert_array_equal(images, np.stack(expected))
    assert task.emotions("visual") == list(EMOTIONS[2:])


def test_fingerprint_follows_the_stores() -> None:
    speech, faces_a = made("savee", "acoustic", [0, 1]), made("savee", "visual", [0, 1])
    faces_b = made("meld", "visual", [0, 1])
    prints = {
        Task((speech,), (faces_a,)).fingerprint,
        Task((speech,), (faces_b,)).fingerprint,
        Task((speech,), (faces_a, faces_b)).fingerprint,
        Task((speech,), (faces_b, faces_a)).fingerprint,
    }
    assert len(prints) == 4
    assert Task((speech,), (faces_a,)).fingerprint in prints


def test_refused() -> None:
    speech, seen = made("savee", "acoustic", [0, 1]), made("savee", "visual", [0, 1])
    with pytest.raises(DataError, match="no visual source"):
        Task((speech,), ())
    with pytest.raises(DataError, match="no acoustic source"):
        Task((), (seen,))


def test_stores_of_other_settings(tmp_path: Path) -> None:
    one = faces(tmp_path, "folders", "angry/1.png", "sad/2.png")
    two = faces(tmp_path, "folders", "angry/1.png", "sad/2.png", size=20)
    with pytest.raises(DataError, match=r"different settings \(face_size\)"):
        Task((made("savee", "acoustic", [0, 1]),), (one, two))


def test_pickled_without_pixels(tmp_path: Path) -> None:
    store = faces(tmp_path, "folders", "angry/1.png", "sad/2.png")
    task = Task((made("savee", "acoustic", [0, 1]),), (store,))
    visual = pickle.loads(pickle.dumps(task.visual))
    np.testing.assert_array_equal(visual[0].images, store.images)
