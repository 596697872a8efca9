"""One real Ray for all tests here, and small real studies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import optuna
import pytest
import ray
from ray._raylet import PlacementGroupID
from ray.cluster_utils import Cluster
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

from fdan.corpora import demo
from fdan.data.open_task import open_task
from search.cli.main import parse
from search.config.spec import resolve
from search.optimizer.pruners import decision_epochs, make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space import Space, Value
from search.optimizer.space_file import parse_space
from search.pipeline import make_worker_data
from search.study.events import StudyCallback, TrialOutcome
from search.study.identity import Identity, RequestedStudy
from search.study.open import open_study
from search.study.status import count_started
from search.study.storage import open_storage
from search.study.storage_retry import StorageRetry
from search.study.trial_controller import FindUnreported, TrialController, TrialPolicy
from search.study.writer import StudyWriter
from search.tune.ray_session import connected
from search.worker.data import WorkerData
from search.worker.messages import EpochResult

KNOWN: dict[str, Value] = {"lr": 0.1, "layers": 1, "heads": 1, "decay": 0.0, "context": "bank"}

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


SMALL = ["--backbone", "resnet18", "--spectrogram-size", "32", "--face-size", "32"]
SMALL += ["--folds", "none"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of our own with two CPUs, for one file: the next may want a cluster."""
    with connected(None, tmp_path_factory.mktemp("ray"), cpus=2):
        yield


@pytest.fixture
def free_ray(ray_here: None) -> Iterator[None]:
    """The shared Ray, and its CPUs free again afterwards: a study that was stopped leaves workers
    that end only with Ray, which a search shuts down and these tests go on with."""
    yield
    for name in placement_group_table():
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


@pytest.fixture
def nodes(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """A head without room for trials, and one worker node; the driver attaches as to any other."""
    folder = tmp_path_factory.mktemp("nodes")
    assert not ray.is_initialized(), "the driver would use that one"
    # In a folder of its own: /tmp/ray says to everybody's `--address auto` which cluster is up.
    # Not in pytest's, whose names are too long for sockets.
    temporary = tempfile.mkdtemp(prefix="fdan-")
    monkeypatch.setenv("RAY_TMPDIR", temporary)
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8},
    )
    made.add_node(num_cpus=1, num_gpus=1, object_store_memory=10**8)
    try:
        with connected(made.address, folder):
            yield made
    finally:
        made.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def small_space() -> Space:
    return parse_space(SPACE, KNOWN)


MakeStudy = Callable[..., optuna.Study]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A study of a space in a journal in tmp_path, read from the disk each time: what a driver
    that starts finds there."""

    def make(
        searched: Space,
        sampler: str = "random",
        pruner: str = "none",
        epochs: int = 9,
        seed: int = 0,
    ) -> optuna.Study:
        store = open_storage(None, tmp_path)
        identity = Identity(searched.as_dict(), "data", {}, {}, seed)
        return open_study(
            RequestedStudy("small", tmp_path, "journal", identity, searched.enqueue),
            store,
            make_sampler(sampler, searched, seed, count_started("small", store)),
            make_pruner(pruner, epochs),
        )

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four speakers, an utterance of each emotion."""
    return demo.generate(
        tmp_path_factory.mktemp("corpus") / "demo", speakers=4, takes=1, uneven=False, workers=1
    )


@pytest.fixture(scope="session")
def work(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkerData:
    """What a search of that corpus would give its workers: 6 epochs a trial."""
    runs = str(tmp_path_factory.mktemp("prepared"))
    flags = ["--runs", runs, "--task", f"demo:{corpus}", "--workers", "1", "--epochs", "6", *SMALL]
    spec = resolve(parse(flags).options)
    task, _ = open_task(spec.data, spec.settings)
    return make_worker_data(spec, task)


class Heard(StudyCallback):
    """What a callback hears, in its order."""

    def __init__(self) -> None:
        self.asked_for: dict[int, Mapping[str, Value]] = {}
        self.reports: list[tuple[int, EpochResult]] = []
        self.interruptions: list[tuple[int, str]] = []
        self.pauses: list[tuple[int, str]] = []
        self.ended: list[TrialOutcome] = []

    def on_trial_start(self, number: int, params: Mapping[str, Value]) -> None:
        self.asked_for[number] = params

    def on_epoch(self, number: int, report: EpochResult) -> None:
        self.reports.append((number, report))

    def on_worker_lost(self, number: int, reason: str) -> None:
        self.interruptions.append((number, reason))

    def on_trial_pause(self, number: int, reason: str) -> None:
        self.pauses.append((number, reason))

    def on_trial_end(self, outcome: TrialOutcome) -> None:
        self.ended.append(outcome)


@dataclass(frozen=True)
class ControllerOptions:
    """What a test may want otherwise."""

    pruner: str = "none"
    trials: int = 100
    retry: StorageRetry = field(
        default_factory=lambda: StorageRetry(None, lambda line: None, lambda: False)
    )
    gpus: float = 0.0
    find_unreported: FindUnreported = lambda trial: ()


_DEFAULT: Final = ControllerOptions()


def controller_of(
    study: optuna.Study,
    searched: Space,
    epochs: int,
    *callbacks: StudyCallback,
    options: ControllerOptions = _DEFAULT,
) -> TrialController:
    """A controller over a storage that is there."""
    pruner = options.pruner
    options.retry.wait_for_connections(study)
    writer = StudyWriter(study, searched.suggest, pruner)
    policy = TrialPolicy(epochs, decision_epochs(pruner, epochs), options.gpus)
    return TrialController(writer, policy, options.trials, callbacks, options.find_unreported)
