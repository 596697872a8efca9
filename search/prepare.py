"""What happens before any trial starts: the data are opened, frozen features are computed, and it
is decided what the trials run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from fdan.cli.terminal import Preparing, unreadable
from fdan.corpora.demo.background import BackgroundDemo
from fdan.data.open_task import open_task
from fdan.data.split import Split, SplitConfig
from fdan.data.task import Task
from fdan.evaluation.baseline import baseline_uar
from fdan.run_config import RunConfig
from search.config.spec import StudySpec
from search.tune.autoscaler import cluster_has_gpu
from search.worker.data import WorkerData
from search.worker.store_sync import publish_stores

if TYPE_CHECKING:
    from fdan.training.training_data import TrainingData


@dataclass(frozen=True)
class StudyInputs:
    """What a study's trials train on."""

    task: Task
    split: Split
    worker_data: WorkerData
    """The same, as workers open it."""

    def load(
        self,
        run: RunConfig,
        device: str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> TrainingData:
        """Load the data that a run trains on, in this process.

        Args:
            run: Settings of the run.
            device: Device for frozen features that are not cached yet. The default is the CPU: the
                driver's node may have no GPU, and promotion needs the same values again.
            progress: Function that is called with (images done, images in all).
        """
        from fdan.device import choose_device
        from fdan.training.training_data import load_training_data

        cache = self.worker_data.cache
        return load_training_data(
            self.task, self.split, run, choose_device(device), cache, progress
        )


def decide_device(spec: StudySpec, notify: Callable[[str], None]) -> StudySpec:
    """Ask the cluster for GPUs, where no option says what the trials run on.

    Args:
        spec: The study.
        notify: Function that shows the user what is waited for and what was decided.
    """
    if not spec.device_is_open or spec.cluster is None:
        return spec
    if cluster_has_gpu(spec.cluster, notify):
        return spec.on_device("cuda")
    notify(
        "the cluster has no GPU, so the study is planned for its CPUs, and stays so; where"
        " GPU nodes are still to come: --gpus-per-trial 1, on a new --study"
    )
    return spec.on_device("cpu")


def open_data(spec: StudySpec, console: Console, demo: BackgroundDemo | None) -> tuple[Task, Split]:
    """Open the study's task and split, after preparing what is not prepared yet.

    Args:
        spec: The study.
        console: Console that shows the progress and unreadable files.
        demo: Demo corpus that is being written already.
    """
    with Preparing(console) as progress:
        task, split = open_task(spec.data, spec.settings, progress, demo)
    for line in unreadable(task):
        console.print(line, style="yellow", highlight=False, markup=False)
    return task, split


def make_worker_data(spec: StudySpec, task: Task) -> WorkerData:
    """The data as a study's workers open them.

    Args:
        spec: The study. With a shared folder, the stores are published there.
        task: Data whose stores are prepared.
    """
    stores = [store.folder for store in (*task.acoustic, *task.visual)]
    return WorkerData(
        acoustic=tuple(store.folder for store in task.acoustic),
        visual=tuple(store.folder for store in task.visual),
        split=spec.settings.pick(SplitConfig),
        fixed=spec.fixed,
        device=spec.device,
        cache=(spec.shared or spec.runs) / "features",
        fingerprint=task.fingerprint,
        published=None if spec.shared is None else publish_stores(stores, spec.shared),
    )


def prepare_training(spec: StudySpec, inputs: StudyInputs, console: Console) -> float | None:
    """Compute frozen features once with all cores. Weights that cannot be had end the search here,
    in one line. On a cluster, the workers do both.

    Args:
        spec: The study.
        inputs: Data of the study.
        console: Console that shows the progress.

    Returns:
        The validation UAR of the baseline that the search has to beat; None where the backbones are
        trained, and on a cluster.
    """
    from fdan.model.backbones import find_weights

    if spec.cluster is not None:
        return None
    run = RunConfig.from_mapping(spec.settings.run)
    if run.model.tuning == "full":
        find_weights(run.model.backbone, run.model.weights)
        return None
    device = "cuda:0" if spec.device == "cuda" else "cpu"
    with Preparing(console) as progress:
        data = inputs.load(run, device, progress.features)
        return baseline_uar(data, data.acoustic_validation)
