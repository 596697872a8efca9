"""The data that a command names, opened as a task: the demo corpus is generated, and what is not
prepared yet is prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fdan.config import Config, flag_option
from fdan.corpora import STORE, Source, parse_source
from fdan.corpora.demo.background import BackgroundDemo
from fdan.data.prepare import prepare
from fdan.data.settings import Settings
from fdan.data.split import Split, split
from fdan.data.store import PrepareProgress, ProgressCallback, Store
from fdan.data.task import Task
from fdan.emotions import MODALITIES
from fdan.errors import ConfigError

_DEMO: Final = "demo"

_SPEECH_FIRST = MODALITIES[::-1]
"""Sounds are prepared before films: a corpus without usable speech is refused at once."""


@dataclass(frozen=True)
class DataConfig(Config):
    """Sources of the data, and the folder of prepared stores."""

    task: str | None = flag_option(
        None, "both modalities of one corpus", "CORPUS:PATH", default_text="the demo corpus"
    )
    acoustic: tuple[str, ...] = flag_option(
        (), "a corpus that gives the speech; may be repeated", "CORPUS:PATH"
    )
    visual: tuple[str, ...] = flag_option(
        (), "a corpus that gives the faces; may be repeated", "CORPUS:PATH"
    )
    runs: Path = flag_option(
        Path("runs"),
        "where stores, features, studies and models go",
        "FOLDER",
        default_text="./runs",
    )
    workers: int | None = flag_option(
        None, "processes that prepare data", "INT", default_text="one per core", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "runs", self.runs.expanduser().absolute())

    @property
    def demo_folder(self) -> Path:
        """Folder of the generated demo corpus."""
        return self.runs / "data" / _DEMO

    @property
    def sources(self) -> list[Source]:
        """Sources that `task`, `acoustic` and `visual` name, or the demo corpus under `runs`.

        Raises:
            ConfigError, DataError: They contradict each other or name no corpus.
        """
        if self.task is not None:
            if self.acoustic or self.visual:
                raise ConfigError("--task names both modalities: leave out --acoustic and --visual")
            if self.task.partition(":")[0].strip().lower() == STORE:
                raise ConfigError("--task: a store holds one modality; use --acoustic and --visual")
            return [parse_source(self.task, modality) for modality in _SPEECH_FIRST]
        sources = [parse_source(text, "acoustic") for text in self.acoustic]
        sources += [parse_source(text, "visual") for text in self.visual]
        if not sources:
            return [Source(_DEMO, self.demo_folder, modality) for modality in _SPEECH_FIRST]
        for modality in _SPEECH_FIRST:
            if not any(source.modality == modality for source in sources):
                raise ConfigError(
                    f"a task needs both modalities: give --{modality} CORPUS:PATH too"
                )
        return sources

    def preset(self, *, gpu: bool) -> str:
        """Name of the preset that applies."""
        if all(source.corpus == _DEMO for source in self.sources):
            return "demo"
        return "gpu" if gpu else "cpu"

    def generate_demo(self) -> BackgroundDemo | None:
        """Start to write the demo corpus in the background; None where it is not among the
        sources."""
        if all(source.path != self.demo_folder for source in self.sources):
            return None
        return BackgroundDemo(self.demo_folder, self.workers)


def open_task(
    data: DataConfig,
    settings: Settings,
    progress: ProgressCallback | None = None,
    demo: BackgroundDemo | None = None,
) -> tuple[Task, Split]:
    """Open the task and its split, after preparing what is not prepared yet.

    Args:
        data: The sources.
        settings: Settings of preparation and split.
        progress: Callback that is given the progress.
        demo: The demo corpus, where it is being written already.

    Raises:
        DataError, ConfigError: A mistake that the user can mend.
    """
    demo = demo or data.generate_demo()
    if demo is not None:
        with demo:
            _wait(demo, progress)
    stores: dict[str, list[Store]] = {modality: [] for modality in MODALITIES}
    for source in data.sources:
        stores[source.modality].append(
            prepare(
                source,
                settings.preparation[source.modality],
                data.runs / "stores",
                workers=data.workers,
                progress=progress,
            )
        )
    task = Task(tuple(stores["acoustic"]), tuple(stores["visual"]))
    return task, split(task, settings.split)


def _wait(demo: BackgroundDemo, progress: ProgressCallback | None) -> None:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(PrepareProgress(f"demo corpus {demo.folder}", "generating", done, total))

    demo.wait(report)
