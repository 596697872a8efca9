"""Stores on a cluster: in the shared folder once, on each node once, and only if they are the same;
checkpoints where all nodes see them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fdan.data.store import IMAGES, open_store
from fdan.errors import FdanError
from search.study.folder import StudyError, folder_for_workers, share_checkpoints
from search.worker.data import WorkerData, _open_task
from search.worker.store_sync import NodeError, PublishedStores, publish_stores
from search.worker.trainable import node_id
from search.worker.trial_folder import trial_folder

Publish = Callable[[], PublishedStores]


@pytest.fixture
def store(work: WorkerData, tmp_path: Path) -> Path:
    """A real store, which may be spoilt."""
    return Path(shutil.copytree(work.acoustic[0], tmp_path / "runs" / work.acoustic[0].name))


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another node's disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "node"))
    return tmp_path / "node" / "fdan-search" / "stores"


def test_each_node_copies_once(store: Path, node: Path, tmp_path: Path) -> None:
    """Eight processes of a node that ask at once: one copies, all have it."""
    published = publish_stores([store], tmp_path / "shared")
    said: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: published.local_copy(store.name, said.append), range(8)))
    assert copies == {node / store.name}
    (line,) = said
    assert line.startswith("has copied its data") and " MB in " in line
    assert open_store(node / store.name).fingerprint == open_store(store).fingerprint
    shutil.rmtree(tmp_path / "shared")
    published.local_copy(store.name, said.append)
    assert len(said) == 1, "it is not asked for again"
    assert sorted(path.name for path in node.iterdir()) == [
        store.name,
        f"{store.name}.json",
        f"{store.name}.lock",
    ]


def test_publishing_again_copies_nothing(store: Path, tmp_path: Path) -> None:
    first = publish_stores([store], tmp_path / "shared")
    images = tmp_path / "shared" / "stores" / store.name / IMAGES
    before = images.stat()
    assert publish_stores([store], tmp_path / "shared") == first
    assert images.stat().st_ino == before.st_ino


def test_other_data_in_the_shared_folder_are_refused(store: Path, tmp_path: Path) -> None:
    """They would be every node's, and nobody would know."""
    publish_stores([store], tmp_path / "shared")
    there = tmp_path / "shared" / "stores" / store.name
    images = there / IMAGES
    images.write_bytes(images.read_bytes()[:-1] + b"!")
    with pytest.raises(FdanError, match=r"differs from .* remove it, it is published anew"):
        publish_stores([store], tmp_path / "shared")
    shutil.rmtree(there)
    publish_stores([store], tmp_path / "shared")
    assert images.read_bytes() == (store / IMAGES).read_bytes()


def test_what_a_killed_copy_left_goes_with_the_next(
    store: Path, node: Path, tmp_path: Path
) -> None:
    published = publish_stores([store], tmp_path / "shared")
    (node / f".{store.name}").mkdir(parents=True)
    (node / f".{store.name}" / IMAGES).write_text("half")
    published.local_copy(store.name, print)
    assert not [path for path in node.iterdir() if path.name.startswith(".")]


def test_a_node_whose_data_differ_refuses(store: Path, node: Path, tmp_path: Path) -> None:
    published = publish_stores([store], tmp_path / "shared")
    copy = published.local_copy(store.name, print)
    with (copy / IMAGES).open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))
    for _ in range(2):
        with pytest.raises(NodeError, match=r"differ from the study's .* remove that folder there"):
            published.local_copy(store.name, print)
    shutil.rmtree(copy)
    assert published.local_copy(store.name, print) == copy


def test_what_arrives_damaged_is_not_kept(store: Path, node: Path, tmp_path: Path) -> None:
    published = publish_stores([store], tmp_path / "shared")
    images = tmp_path / "shared" / "stores" / store.name / IMAGES
    images.write_bytes(images.read_bytes()[:-1] + b"!")
    with pytest.raises(NodeError, match="not the study's data"):
        published.local_copy(store.name, print)
    assert [path.name for path in node.iterdir()] == [f"{store.name}.lock"]
    shutil.rmtree(tmp_path / "shared")
    with pytest.raises(NodeError, match="it needs the study's data"):
        published.local_copy(store.name, print)


def test_a_shared_folder_that_cannot_be_written(store: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("a file")
    with pytest.raises(FdanError, match="--shared"):
        publish_stores([store], tmp_path / "shared")


def test_a_worker_compares_the_fingerprint(work: WorkerData) -> None:
    """Where the data are on the same path on each node, too. At home it is an error like others."""
    other = replace(work, fingerprint="0" * 64, home="another node")
    with pytest.raises(NodeError, match=r"have the fingerprint .* the study's 000000000000"):
        _open_task(other, print)
    with pytest.raises(FdanError, match="have the fingerprint"):
        _open_task(replace(other, home=node_id()), print)
    absent = replace(other, acoustic=(Path("/nowhere/store"),))
    with pytest.raises(NodeError, match="not a prepared store"):
        _open_task(absent, print)
    assert _open_task(work, print).fingerprint == work.fingerprint


def test_checkpoints_lie_in_the_shared_folder(tmp_path: Path) -> None:
    folder, shared = tmp_path / "runs" / "s", tmp_path / "shared"
    folder.mkdir(parents=True)
    shared.mkdir()
    assert folder_for_workers(folder) == folder
    for _ in range(2):
        share_checkpoints(folder, "s-1234/search", shared)
        assert folder_for_workers(folder) == shared / "studies" / "s-1234" / "search"
    trial_folder(folder, 7).mkdir()
    assert (shared / "studies/s-1234/search/trials/0007").is_dir()
    shutil.move(shared, tmp_path / "away")
    with pytest.raises(StudyError, match="which is not there: mount it"):
        share_checkpoints(folder, "s-1234/search", shared)


def test_a_study_that_began_alone_stays_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "s"
    (folder / "trials" / "0000").mkdir(parents=True)
    with pytest.raises(StudyError, match="do not see them"):
        share_checkpoints(folder, "s-1234/search", tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
