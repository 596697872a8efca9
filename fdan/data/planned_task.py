"""A task as its corpora list it, before anything is decoded: what a plan needs to know.

Sizes are those of the listing: files that turn out unreadable, and copies of one recording, are
found when the store is prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fdan.corpora import STORE, Listing, Row, Source, read
from fdan.corpora.listing import VIDEO
from fdan.data.store import Store, open_store
from fdan.data.task import Task
from fdan.emotions import EMOTIONS, label
from fdan.media.faces import FaceSettings
from fdan.media.pixels import Settings, settings_to_dict


def plan_task(
    sources: Sequence[Source],
    settings: Mapping[str, Settings],
    absent_demo: Path | None = None,
) -> Task:
    """A task with samples and no images.

    Args:
        sources: Corpora or prepared stores.
        settings: Settings of each modality's preparation.
        absent_demo: The demo corpus's folder if it is still to be generated; its listing is known
            all the same.
    """
    stores: dict[str, list[Store]] = {"acoustic": [], "visual": []}
    for source in sources:
        if source.corpus == STORE:
            store = open_store(source.path)
        else:
            listing = _list_demo(source) if source.path == absent_demo else read(source)
            store = _store(source, listing, settings[source.modality])
        stores[source.modality].append(store)
    return Task(tuple(stores["acoustic"]), tuple(stores["visual"]))


def _store(source: Source, listing: Listing, settings: Settings) -> Store:
    frames = settings.frames if isinstance(settings, FaceSettings) else 1
    rows = [
        row
        for row in listing.rows
        for _ in range(frames if row.path.suffix.lower() in VIDEO else 1)
    ]
    return Store(
        folder=source.path,
        corpus=source.corpus,
        modality=source.modality,
        settings=settings_to_dict(settings),
        fingerprint="not prepared",
        images=np.zeros((len(rows), 0, 0, 1), np.uint8),
        emotions=np.array([label(row.emotion) for row in rows], np.int64),
        speakers=[row.speaker for row in rows],
        utterances=[row.utterance for row in rows],
        parts=[row.part for row in rows],
        files=[str(row.path) for row in rows],
        contents=[str(row.path) for row in rows],
        unreadable=[],
        problems=[{"path": str(p.path), "reason": p.reason} for p in listing.problems],
        counts=listing.skipped,
    )


def _list_demo(source: Source) -> Listing:
    """Rows that the generator will write, in reading order."""
    from fdan.corpora import demo

    settings = demo.DemoSettings()
    folder, suffix = (
        ("AudioData", ".wav") if source.modality == "acoustic" else ("VisualData", ".avi")
    )
    paths = {}
    for speaker in range(settings.speakers):
        for emotion in EMOTIONS:
            for take in range(settings.takes):
                name = demo.speaker_name(speaker)
                file = f"{demo.CODES[emotion]}{take + 1:02d}"
                path = source.path / folder / name / f"{file}{suffix}"
                paths[path] = Row(path, emotion, name, f"{name}_{file}")
    ordered = sorted(paths, key=lambda path: path.relative_to(source.path).as_posix())
    return Listing(tuple(paths[path] for path in ordered))
