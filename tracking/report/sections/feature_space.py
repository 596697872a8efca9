"""Where speech and faces lie in the winner's feature space."""

from collections import Counter
from collections.abc import Iterator

from fdan.emotions import EMOTIONS
from tracking.report.blocks import Block, Figure, Note
from tracking.report.drawing import Svg, around
from tracking.report.formatting import count, is_number, short
from tracking.result import EmbeddedPoint, StudyResult


def feature_space_blocks(result: StudyResult) -> Iterator[Block]:
    embedding = result.embedding
    points = () if embedding is None else embedding.points
    points = tuple(p for p in points if is_number(p.x) and is_number(p.y))
    if embedding is None or not points:
        yield Note(
            "No picture of the feature space: there is no complete trial's model, or too few"
            " samples for one."
        )
        return
    modalities = Counter(point.modality for point in points)
    faces = modalities["visual"]
    words = (
        f"{embedding.method} of the features that enter the classifier: filled points are"
        f" {count(modalities['acoustic'], 'utterance')} of the {short(embedding.part, 20)} part"
    )
    if faces:
        words += f", hollow ones {count(faces, 'face')} of the training part"
    words += ". Who is near whom means something, places and distances do not."
    present = {point.emotion for point in points}
    legend = [(f"emotion {emotion}", emotion) for emotion in EMOTIONS if emotion in present]
    yield Figure("Speech and faces" if faces else "Speech", words, _draw(points), legend)


def _draw(points: tuple[EmbeddedPoint, ...]) -> Svg:
    d = Svg(520, 380, "t-SNE of speech and faces, coloured by emotion")
    across = around([point.x for point in points], share=0.04)
    up = around([point.y for point in points], share=0.04)
    d.add("rect", "ground", x=0.5, y=0.5, width=d.width - 1, height=d.height - 1)
    # Speech above faces.
    for point in sorted(points, key=lambda point: point.modality == "acoustic"):
        emotion = point.emotion if point.emotion in EMOTIONS else "neutral"
        speech = point.modality == "acoustic"
        by = f" of {short(point.speaker, 40)}" if point.speaker is not None else ""
        d.add(
            "circle",
            f"emotion {emotion}" if speech else f"emotion {emotion} hollow",
            f"{emotion}, {'speech' if speech else 'face'}{by}",
            cx=10 + across.place(point.x) * (d.width - 20),
            cy=d.height - 10 - up.place(point.y) * (d.height - 20),
            r=4,
        )
    return d
