"""The data that a command names, opened as a task (the demo corpus is generated, and what is not
prepared yet is prepared) or planned as one, from its corpora's listings alone."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from fdan.config import Config, option
from fdan.corpora import FOLDERS, STORE, Listing, Row, Source, parse_source, read, read_suffixes
from fdan.corpora.class_names import read_emotion_names
from fdan.corpora.demo import CODES, BackgroundDemo, DemoSettings, speaker_name
from fdan.corpora.listing import VIDEO, describe_counts, suffix
from fdan.data.prepare import prepare
from fdan.data.settings import Settings
from fdan.data.split import Split, split
from fdan.data.store import (
    PASSED_OVER,
    PrepareProgress,
    ProgressCallback,
    Store,
    no_progress,
    open_store,
)
from fdan.data.task import Task
from fdan.emotions import EMOTIONS, MODALITIES
from fdan.errors import ConfigError, DataError
from fdan.files import is_utf8
from fdan.machine.rights import follow_group
from fdan.media.faces import FaceSettings
from fdan.media.pixels import settings_to_dict
from fdan.media.spectrogram import SpectrogramSettings

_DEMO: Final = "demo"
_MAX_LEFT_OUT: Final = 5  # files or folders that an error names

_SPEECH_FIRST = MODALITIES[::-1]  # so that a corpus without usable speech is refused at once


@dataclass(frozen=True)
class DataConfig(Config):
    """Sources of the data, and the folder of prepared stores."""

    task: str | None = option(
        None, "both modalities of one corpus", "CORPUS:PATH", default_text="the demo corpus"
    )
    acoustic: tuple[str, ...] = option(
        (), "a corpus that gives the speech; may be repeated", "CORPUS:PATH"
    )
    visual: tuple[str, ...] = option(
        (), "a corpus that gives the faces; may be repeated", "CORPUS:PATH"
    )
    emotions: Path | None = option(
        None,
        "what class folders are called, where they are not named for an emotion: a TOML file of"
        ' lines such as 0 = "anger"',
        "FILE",
    )
    runs: Path = option(
        Path("runs"),
        "where stores, features, studies and models go",
        "FOLDER",
        default_text="./runs",
    )
    workers: int | None = option(
        None, "processes that prepare data", "INT", default_text="one per core", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "runs", self.runs.expanduser().absolute())
        if not is_utf8(self.runs):
            raise ConfigError(
                f"--runs {self.runs}: its name is not UTF-8, which databases and MLflow need:"
                " rename the folder, or choose another one"
            )
        if self.emotions is not None:
            object.__setattr__(self, "emotions", self.emotions.expanduser().absolute())

    @property
    def demo_folder(self) -> Path:
        """Folder of the generated demo corpus."""
        return self.runs / "data" / _DEMO

    @property
    def sources(self) -> list[Source]:
        """Sources that `task`, `acoustic` and `visual` name, or the demo corpus under `runs`.
        ConfigError or DataError if they contradict each other or name no corpus."""
        sources = self._named_sources()
        if self.emotions is None:
            return sources
        if not any(source.corpus == FOLDERS for source in sources):
            raise ConfigError("--emotions: maps names of class folders; no source is folders:PATH")
        names = read_emotion_names(self.emotions)
        return [
            replace(source, emotion_names=names) if source.corpus == FOLDERS else source
            for source in sources
        ]

    def _named_sources(self) -> list[Source]:
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
        """Start to write the demo corpus in the background, if it is among the sources. The first
        thing that is done in the runs folder: from here on, its group's rights are followed."""
        follow_group(self.runs)
        if any(source.path == self.demo_folder for source in self.sources):
            return BackgroundDemo(self.demo_folder, self.workers)
        return None


def prepare_task(
    data: DataConfig,
    settings: Settings,
    progress: ProgressCallback = no_progress,
    demo: BackgroundDemo | None = None,
) -> Task:
    """Open the task, after preparing what is not prepared yet.

    Args:
        data: The sources.
        settings: Settings of preparation.
        progress: Callback that is given the progress.
        demo: The demo corpus, where it is being written already.
    """
    demo = demo or data.generate_demo()
    if demo is not None:
        with demo:
            demo.wait(generation_progress(demo.folder, progress))
    folder, preparation = data.runs / "stores", settings.preparation

    def prepared(source: Source) -> Store:
        own = preparation[source.modality]
        store = prepare(source, own, folder, workers=data.workers, progress=progress)
        return _without_other_modality(store, source, data.sources)

    return _task(data.sources, prepared)


def open_task(
    data: DataConfig,
    settings: Settings,
    progress: ProgressCallback = no_progress,
    demo: BackgroundDemo | None = None,
) -> tuple[Task, Split]:
    """Open the task and its split, after preparing what is not prepared yet.

    Args:
        data: The sources.
        settings: Settings of preparation and split.
        progress: Callback that is given the progress.
        demo: The demo corpus, where it is being written already.
    """
    task = prepare_task(data, settings, progress, demo)
    with naming_left_out(task):
        parts = split(task, settings.split)
    return task, parts


@contextlib.contextmanager
def naming_left_out(task: Task) -> Iterator[None]:
    """What is raised here of a task that cannot be divided names what its stores could not use: too
    few samples, perhaps, and these would be more."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}{_left_out(task)}") from None


def _left_out(task: Task) -> str:
    """What the stores could not use of their corpora, for the end of an error."""
    lines = []
    for store in (*task.acoustic, *task.visual):
        files = (*store.problems, *store.unreadable)
        passed_over = {
            name.removeprefix(PASSED_OVER): count
            for name, count in store.counts.items()
            if name.startswith(PASSED_OVER)
        }
        told = [f"{file['path']}: {file['reason']}" for file in files[:_MAX_LEFT_OUT]]
        more = f" and {len(files) - _MAX_LEFT_OUT} more" if len(files) > _MAX_LEFT_OUT else ""
        told += [f"not used: {describe_counts(passed_over)}"] if passed_over else []
        if told:
            lines.append(
                f"; left out of {store.corpus} ({store.modality}): {'; '.join(told)}{more}"
            )
    return "".join(lines)


def generation_progress(folder: Path, progress: ProgressCallback) -> Callable[[int, int], None]:
    """A callback for the demo corpus's generator, which is given done and total.

    Args:
        folder: Folder of the demo corpus.
        progress: Where the progress is passed on to.
    """
    source = f"demo corpus {folder}"
    return lambda done, total: progress(PrepareProgress(source, "generating", done, total))


def plan_task(data: DataConfig, settings: Settings) -> Task:
    """A task as its corpora list it, before anything is decoded: samples and no images. Files that
    turn out unreadable, and copies of one recording, are found when the stores are prepared.

    Args:
        data: The sources. The demo corpus need not be there yet.
        settings: Settings of preparation.
    """

    def planned(source: Source) -> Store:
        if source.corpus == STORE:
            return open_store(source.path)
        absent = source.path == data.demo_folder and not source.path.exists()
        listing = _list_demo(source) if absent else read(source)
        store = _planned_store(source, listing, settings.preparation[source.modality])
        return _without_other_modality(store, source, data.sources)

    return _task(data.sources, planned)


def _without_other_modality(store: Store, source: Source, sources: Sequence[Source]) -> Store:
    """A store that passed over no file that its folder gives to the other modality alone. What both
    read and this one passed over, a stray film say, was perhaps passed over by both."""
    others = [s for s in sources if s.path == source.path and s.modality != source.modality]
    other_suffixes = {suffix for other in others for suffix in read_suffixes(other)}
    read_there = {PASSED_OVER + name for name in other_suffixes - {*read_suffixes(source)}}
    counts = {name: count for name, count in store.counts.items() if name not in read_there}
    return replace(store, counts=counts)


def _task(sources: Sequence[Source], open_source: Callable[[Source], Store]) -> Task:
    stores = [(source.modality, open_source(source)) for source in sources]
    acoustic, visual = ([store for m, store in stores if m == own] for own in _SPEECH_FIRST)
    return Task(tuple(acoustic), tuple(visual))


def _planned_store(
    source: Source, listing: Listing, settings: SpectrogramSettings | FaceSettings
) -> Store:
    frames = settings.frames if isinstance(settings, FaceSettings) else 1
    rows = [row for row in listing.rows for _ in range(frames if suffix(row.path) in VIDEO else 1)]
    paths = [str(row.path) for row in rows]
    return Store(
        folder=source.path,
        corpus=source.corpus,
        modality=source.modality,
        settings=settings_to_dict(settings),
        fingerprint="not prepared",
        images=np.zeros((len(rows), 0, 0, 1), np.uint8),
        emotions=np.array([EMOTIONS.index(row.emotion) for row in rows], np.int64),
        speakers=[row.speaker for row in rows],
        utterances=[row.utterance for row in rows],
        parts=[row.part for row in rows],
        files=paths,
        contents=paths,
        problems=[{"path": str(p.path), "reason": p.reason} for p in listing.problems],
        counts={PASSED_OVER + n: c for n, c in {**listing.skipped, **listing.unused}.items()},
    )


def _list_demo(source: Source) -> Listing:
    """Rows that the generator will write, in reading order."""
    settings = DemoSettings()
    acoustic = source.modality == "acoustic"
    folder, suffix = ("AudioData", ".wav") if acoustic else ("VisualData", ".avi")
    rows = []
    for speaker, emotion in itertools.product(range(settings.speakers), EMOTIONS):
        for take in range(settings.sounds(emotion) if acoustic else settings.takes):
            name, file = speaker_name(speaker), f"{CODES[emotion]}{take + 1:02d}"
            path = source.path / folder / name / f"{file}{suffix}"
            rows.append(Row(path, emotion, name, f"{name}_{file}"))
    return Listing(tuple(sorted(rows, key=lambda row: row.path.as_posix())))
