"""The statistics of speech in a store: made with it, added to an older one, absent otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fdan.corpora import Source, parse_source
from fdan.data.prepare import prepare
from fdan.data.store import MANIFEST, STATISTICS, PrepareProgress, Store, open_store
from fdan.errors import DataError
from fdan.media.pixels import read_pixels
from fdan.media.spectrogram import SpectrogramSettings
from fdan.media.speech_statistics import COLUMNS, DESCRIPTION

SPEECH = SpectrogramSettings(seconds=0.2, spectrogram_size=32)


def corpus(root: Path) -> Source:
    rng = np.random.default_rng(0)
    root.mkdir()
    for speaker in ("AA", "BB"):
        for code in ("a", "d", "h"):
            sound = rng.normal(0, 0.1, 4000).astype(np.float32)
            soundfile.write(root / f"{speaker}_{code}01.wav", sound, 16000)
    return Source("savee", root, "acoustic")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return corpus(tmp_path / "corpus")


def make_older(store: Store) -> None:
    """Take away what earlier releases did not write."""
    (store.folder / STATISTICS).unlink()
    manifest = json.loads((store.folder / MANIFEST).read_text())
    del manifest["statistics"]
    (store.folder / MANIFEST).write_text(json.dumps(manifest))


def expected(source: Source, store: Store) -> np.ndarray:
    rows = [read_pixels(source.path / f, SPEECH, statistics=True).statistics for f in store.files]
    assert all(row is not None for row in rows)
    return np.concatenate([row for row in rows if row is not None])


def test_they_are_made_with_the_store(source: Source, tmp_path: Path) -> None:
    (source.path / "BB_su01.wav").write_bytes(b"")  # a file without a row
    store = prepare(source, SPEECH, tmp_path / "stores", workers=2)
    assert store.statistics is not None and store.statistics.shape == (6, COLUMNS)
    # Not to the bit: the processes that decode have one thread each.
    np.testing.assert_allclose(store.statistics, expected(source, store), atol=1e-5)
    manifest = json.loads((store.folder / MANIFEST).read_text())
    assert manifest["statistics"] == DESCRIPTION


def test_the_fingerprint_is_that_of_earlier_releases(source: Source, tmp_path: Path) -> None:
    """Of the files' contents and the images' settings, as 1.0 computed it."""
    store = prepare(source, SPEECH, tmp_path / "stores", workers=1)
    earlier = {name: v for name, v in SPEECH.as_dict().items() if name != "reference"}
    digest = hashlib.sha256(json.dumps([1, {**earlier, "version": 1}]).encode())
    for i, file in enumerate(store.files):
        emotion = ["anger", "disgust", "happiness"][i % 3]
        row = [file, store.contents[i], emotion, store.speakers[i], store.utterances[i], None]
        digest.update(json.dumps(row).encode())
    assert store.fingerprint == digest.hexdigest()


def test_an_older_store_gets_them_where_its_files_are(source: Source, tmp_path: Path) -> None:
    root = tmp_path / "stores"
    made = prepare(source, SPEECH, root, workers=1)
    make_older(made)
    older, manifest = open_store(made.folder), (made.folder / MANIFEST).read_bytes()
    assert older.statistics is None and older.fingerprint == made.fingerprint
    heard: list[PrepareProgress] = []
    again = prepare(source, SPEECH, root, workers=2, progress=heard.append)
    assert again.folder == made.folder and again.statistics is not None
    assert heard[-1] == PrepareProgress(str(source), "statistics of speech", 6, 6)
    np.testing.assert_allclose(again.statistics, expected(source, again), atol=1e-5)
    # On the disk, for whoever opens it next; the manifest tells a cluster's nodes which copy it is.
    stored = open_store(made.folder).statistics
    assert stored is not None
    np.testing.assert_array_equal(stored, again.statistics)
    assert (made.folder / MANIFEST).read_bytes() == manifest


def test_an_older_store_that_was_carried_elsewhere_has_none(source: Source, tmp_path: Path) -> None:
    store = prepare(source, SPEECH, tmp_path / "stores", workers=1)
    make_older(store)
    carried = parse_source(f"store:{store.folder}", "acoustic")
    assert prepare(carried, None, tmp_path / "elsewhere").statistics is None


def test_where_nobody_may_write_they_are_computed_for_this_process(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "stores"
    store = prepare(source, SPEECH, root, workers=1)
    make_older(store)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fdan.data.prepare.write_atomic", refused)
    again = prepare(source, SPEECH, root, workers=1)
    assert again.statistics is not None and open_store(store.folder).statistics is None


@pytest.mark.parametrize("harm", ["gone", "rows", "type"])
def test_damage_is_noticed(harm: str, source: Source, tmp_path: Path) -> None:
    store = prepare(source, SPEECH, tmp_path / "stores", workers=1)
    file, statistics = store.folder / STATISTICS, store.statistics
    assert statistics is not None
    file.unlink()
    if harm == "rows":
        np.save(file, statistics[1:])
    elif harm == "type":
        np.save(file, statistics.astype(np.float64))
    with pytest.raises(DataError, match=r"mfcc-v1\.npy.*prepare again"):
        open_store(store.folder)


def test_what_a_kill_left_is_continued(source: Source, tmp_path: Path) -> None:
    """As far as images, statistics and lines agree; what an earlier release left, from its
    start."""
    whole = prepare(source, SPEECH, tmp_path / "whole", workers=1)
    for rows, lost in ((4, 1), (4, 4), (0, 0)):
        root = tmp_path / f"killed{rows}{lost}"
        root.mkdir()
        partial = root / f"{whole.folder.name}.partial"
        shutil.copytree(whole.folder, partial)
        (partial / MANIFEST).unlink()
        line = json.dumps({"images": 1, "reason": "", "counts": {"longer than the window, cut": 1}})
        (partial / "done.jsonl").write_text(f"{line}\n" * 4)
        sizes = {"images.npy": 32 * 32, STATISTICS: COLUMNS * 4}
        for name, size in sizes.items():
            array = np.load(partial / name)
            with (partial / name).open("r+b") as file:
                np.lib.format.write_array_header_1_0(
                    file,
                    {
                        "descr": array.dtype.str,
                        "fortran_order": False,
                        "shape": (0, *array.shape[1:]),
                    },
                )
                keep = rows - lost if name == STATISTICS else rows
                os.truncate(partial / name, file.tell() + keep * size + 3)
        if not rows:
            (partial / STATISTICS).unlink()
        store = prepare(source, SPEECH, root, workers=1)
        for name in (*sizes, MANIFEST):
            found = (store.folder / name).read_bytes()
            assert found == (whole.folder / name).read_bytes(), (rows, lost, name)
