"""One real Ray for all tests here, and small real studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from ray._raylet import PlacementGroupID
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from search import driver, pruners, samplers, space, storage, study
from search.space import Space

KNOWN = {"lr": 0.1, "layers": 1, "heads": 1, "decay": 0.0, "context": "bank"}

SPACE = """
[dimensions.lr]
type = "float"
low = 0.0
high = 1.0

[dimensions.layers]
type = "int"
low = 0
high = 2

[dimensions.heads]
type = "categorical"
choices = [1, 2, 4]
when = { layers = [1, 2] }
"""

DISCRETE = SPACE.replace("high = 1.0", "high = 1.0\nstep = 0.5")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of our own with two CPUs."""
    with driver.cluster(None, tmp_path_factory.mktemp("ray"), cpus=2):
        yield


@pytest.fixture
def free_ray(ray_here: None) -> Iterator[None]:
    """The shared Ray, and its CPUs free again afterwards: a study that was stopped leaves workers
    that end only with Ray, which a search shuts down and these tests go on with."""
    yield
    for name in placement_group_table():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


@pytest.fixture
def small_space() -> Space:
    return space.parse(SPACE, KNOWN)


MakeStudy = Callable[..., optuna.Study]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A study of a space in a journal below tmp_path."""

    def make(
        searched: Space,
        sampler: str = "random",
        pruner: str = "none",
        epochs: int = 9,
        seed: int = 0,
    ) -> optuna.Study:
        store = storage.open_storage(None, tmp_path)
        identity = study.Identity(searched.as_dict(), "data", {}, {}, seed)
        return study.open_study(
            "small",
            store,
            identity,
            samplers.make(sampler, searched, seed, study.stored_trials("small", store)),
            pruners.make(pruner, epochs),
            searched,
        )

    return make
