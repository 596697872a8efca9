"""Where speech and faces lie in the winner's feature space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from fdan.emotions import EMOTIONS
from tracking.report.blocks import Block, Figure, note
from tracking.report.charts.axes import around
from tracking.report.charts.intervals import NARROW
from tracking.report.charts.svg import Svg
from tracking.report.formatting import count, is_number, short
from tracking.result import EmbeddedPoint, StudyResult

_WIDE: Final = 620.0


def feature_space_blocks(result: StudyResult) -> Iterator[Block]:
    embedding = result.embedding
    points = [] if embedding is None else [p for p in embedding.points if _drawn(p)]
    if embedding is None or not points:
        yield note(
            "No picture of the feature space: there is no complete trial's model, or too few"
            " samples for one."
        )
        return
    modalities = Counter(point.modality for point in points)
    speech, faces = modalities["acoustic"], modalities["visual"]
    present = {point.emotion for point in points}
    legend = [(f"emotion {emotion}", emotion) for emotion in EMOTIONS if emotion in present]
    words = (
        f"{embedding.method} of the features that enter the classifier: filled points are"
        f" {count(speech, 'utterance')} of the {short(embedding.part, 20)} part"
    )
    if faces:
        words += f", hollow ones {count(faces, 'face')} of the training part"
    words += ". Who is near whom means something, places and distances do not."
    yield Figure(
        "Speech and faces" if faces else "Speech",
        words,
        str(_draw(points, _WIDE, 420)),
        str(_draw(points, NARROW, 330)),
        tuple(legend),
    )


def _drawn(point: EmbeddedPoint) -> bool:
    return is_number(point.x) and is_number(point.y)


def _draw(points: list[EmbeddedPoint], width: float, height: float) -> Svg:
    d = Svg(width, height, "t-SNE of speech and faces, coloured by emotion")
    across = around([point.x for point in points], share=0.04)
    up = around([point.y for point in points], share=0.04)
    d.rectangle((0.5, 0.5), (width - 1, height - 1), "ground")
    for modality in ("visual", "acoustic"):
        for point in points:
            if point.modality != modality:
                continue
            x, y = across.place(point.x), up.place(point.y)
            assert x is not None and y is not None
            emotion = point.emotion if point.emotion in EMOTIONS else "neutral"
            kind = f"emotion {emotion}" + (" hollow" if modality == "visual" else "")
            what = "speech" if modality == "acoustic" else "face"
            by = f" of {short(str(point.speaker), 40)}" if point.speaker is not None else ""
            place = (10 + x * (width - 20), height - 10 - y * (height - 20))
            d.circle(place, 4, kind, f"{emotion}, {what}{by}")
    return d
