"""The order of the tests' files, examples that are the same each time, and a small disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from fdan.lock import wait_for_lock

# What fails was broken by a change, not by the day's luck. Others: --hypothesis-profile=default.
settings.register_profile("same each time", derandomize=True)
settings.load_profile("same each time")

# Threads that wait for one another's part of a sum sleep: where more processes than cores compute,
# as here, they otherwise burn the time that the part waited for needs, 30 times of what small
# sums take (measured). It changes neither their number nor a result. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2**4 cycles, its least

# Ray's workers are of low priority by default: a search would wait for the tests beside it.
os.environ.setdefault("RAY_worker_niceness", "0")

_ORDER: Final = (
    "cluster/",
    *("commands/test_readme.py", "commands/test_bad_input.py", "commands/test_earlier_study.py"),
    *(
        "search/cli/test_main.py",
        "fdan/",
        "tracking/",
        "chaos/test_chaos.py",
        "commands/",
        "chaos/",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the long tests, the cluster's machines want all cores for ten minutes: beside them go the
    files that start little themselves. Whatever takes minutes comes early, so that none is left
    over for one process alone, and the two of chaos are not side by side."""

    def rank(item: pytest.Item) -> int:
        path = str(item.path)
        return next((n for n, part in enumerate(_ORDER) if f"tests/{part}" in path), 99)

    items.sort(key=rank)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this name, made by the first to ask, for all processes that test."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    with wait_for_lock(root / f"{name}.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs. Making one takes seconds, copying one does not."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(f"sqlite:///{folder / 'empty.db'}").search_experiments()

    return made_once(tmp_path_factory, "template", make) / "empty.db"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of the test's own, of a quarter of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "fdan-test", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)
