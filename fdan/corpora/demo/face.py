"""The demo corpus's faces: drawn, lit and filmed. The geometry of brows, eyes and mouth carries the
emotion; skin, hair, place, light and camera do not. The mouth moves with the voice."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from fdan.corpora.demo.voice import HOP, SAMPLE_RATE, Array

FRAME_RATE: Final = 8  # frames/s; OpenCV's AVI files hold whole numbers only
SIZE: Final = 128  # pixels, width and height
# Geometry of each emotion at its apex, after the action units of the Facial Action Coding System
# (Ekman and Friesen, 1978), as a change from the neutral face in half-widths of the head (upward
# is positive): inner and outer brow, brows drawn together; opening of the eye and lower lid as
# shares; lip corner, mouth's opening and width, raised upper lip; wrinkled nose as a share.
_EXPRESSION: Final = {
    #        inner outer together eye lower corner open width lip nose
    "anger": (-0.16, 0.04, 0.09, 0.05, 0.60, -0.07, 0.03, -0.09, 0.00, 0.5),
    "disgust": (-0.10, -0.05, 0.04, -0.40, 0.70, -0.09, 0.04, -0.03, 0.09, 1.3),
    "fear": (0.16, 0.04, 0.08, 0.50, 0.15, -0.06, 0.13, 0.10, 0.00, 0.0),
    "happiness": (0.00, 0.03, 0.00, -0.20, 0.60, 0.16, 0.07, 0.16, 0.03, 0.1),
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "sadness": (0.12, -0.09, 0.06, -0.40, 0.00, -0.13, 0.00, -0.06, 0.00, 0.0),
    "surprise": (0.18, 0.18, -0.01, 0.75, -0.15, 0.00, 0.25, -0.10, 0.00, 0.0),
}
# How far one clip's face strays from that, and how far a speaker's face at rest does.
_TWITCH: Final = np.array([0.01, 0.01, 0.005, 0.04, 0.05, 0.01, 0.006, 0.01, 0.005, 0.08])
_REST: Final = np.array([0.01, 0.01, 0.005, 0.05, 0.05, 0.01, 0.0, 0.015, 0.005, 0.05])
_TURN: Final = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_ROUND: Final = np.column_stack([np.cos(_TURN), np.sin(_TURN)])
_ALONG: Final = np.linspace(0, 1, 12)[:, None]
_PULLS: Final = ((1 - _ALONG) ** 2, 2 * _ALONG * (1 - _ALONG), _ALONG**2)  # Bézier's weights
Colour = npt.NDArray[np.float64]  # (3,), BGR, 0..255
Layer = tuple[Array, list[float]]  # an outline (n, 2) in half-widths of the head, and its colour


class Face:
    """What a speaker looks like in every emotion. Lengths are in half-widths of the head."""

    def __init__(self, rng: np.random.Generator) -> None:
        dark = rng.uniform(0.25, 0.65)
        skin = np.array([175, 200, 236]) * (1 - dark) + np.array([78, 108, 155]) * dark
        hair = np.array([[20, 22, 28], [26, 34, 48], [34, 50, 70], [50, 50, 54]], float)
        self.skin: Colour = skin + rng.normal(0, 6, 3)
        self.hair: Colour = hair[rng.integers(4)] + rng.normal(0, 3, 3)
        self.iris: Colour = rng.uniform(20, 70, 3)
        self.lips: Colour = skin * np.array([0.62, 0.55, 0.85]) + rng.normal(0, 6, 3)
        self.wall: Colour = rng.uniform(115, 145) + rng.normal(0, 5, 3)
        self.rest = rng.normal(0, _REST)  # (10,), added to the expression
        self.length = rng.uniform(1.2, 1.4)  # of the head
        self.apart = rng.uniform(0.4, 0.46)  # distance of an eye from the middle
        self.brow = rng.uniform(0.05, 0.09)  # thickness
        self.size = rng.uniform(0.29, 0.34)  # half-width of the head as a share of the picture
        self.fringe = rng.uniform(0, 1)  # how far the hair reaches down, 0..1
        self.light = rng.normal(0, 0.08, 2)  # direction and strength across the picture
        self.grain = rng.uniform(2, 6)  # camera noise, grey levels

    def shade(self, colour: Colour | float) -> list[float]:
        """A colour, or a share of the skin's, as OpenCV takes it."""
        paint = self.skin * colour if isinstance(colour, float) else colour
        shade: list[float] = paint.clip(0, 255).tolist()
        return shade

    @functools.cached_property
    def skull(self) -> list[Layer]:
        """Hair, neck and shoulders, head; then the soft shades of the skin."""
        layers: list[tuple[Array, Colour | float]] = [
            (_oval(0, -0.15, 1.14, self.length + 0.12), self.hair),
            (_oval(0, 2.4, 1.7, 1.0), self.wall[::-1] * 0.6),
            (_oval(0, 1.2, 0.5, 0.6), 0.72),
            (_oval(0, 0, 1.0, self.length), 0.9),
            (_oval(0, 0.03, 0.86, self.length * 0.88), 1.0),
            (_oval(0, -self.length * 0.6, 0.55, 0.22), 1.07),
        ]
        for s in (-1, 1):
            layers += [
                (_oval(s * self.apart, -0.2, 0.31, 0.2), 0.78),
                (_oval(s * 0.5, 0.3, 0.22, 0.18), 1.08),
                (_oval(s * 0.14, 0.28, 0.09, 0.08), 0.7),
            ]
        layers.append((_oval(0, 0.02, 0.09, 0.28), 1.1))
        return [(points, self.shade(colour)) for points, colour in layers]

    @functools.cached_property
    def hairline(self) -> Layer:
        """Hair that falls on the forehead."""
        top = _oval(0, 0, 1.03, self.length + 0.03)[len(_TURN) // 2 + 1 :]
        down = -0.62 - 0.35 * (1 - self.fringe)
        fringe = [[0.4, down], [0, down - 0.06], [-0.4, down]]
        return np.vstack([top[top[:, 1] < down], fringe]), self.shade(self.hair)


def film(
    face: Face, emotion: str, opening: Array, rng: np.random.Generator
) -> Iterable[npt.NDArray[np.uint8]]:
    """Film one utterance, (SIZE, SIZE, 3) uint8, BGR, frame by frame; the expression grows from
    almost neutral to its apex, then falls back.

    Args:
        face: The speaker's face.
        emotion: Emotion that it shows.
        opening: (frames,) how far the mouth is open, 0..1, at SAMPLE_RATE / HOP.
        rng: Generator of this take.
    """
    count = max(round(len(opening) * HOP / SAMPLE_RATE * FRAME_RATE), 3)
    through = np.arange(count) / (count - 1)
    apex, strength = rng.uniform(0.35, 0.65), rng.uniform(0.7, 1.1)
    course = np.interp(through, [0, apex, 1], [rng.uniform(0.3, 0.6), 1, rng.uniform(0.5, 0.9)])
    expressions = np.outer(course * strength, _EXPRESSION[emotion]) + face.rest
    expressions += rng.normal(0, _TWITCH)
    expressions += rng.normal(0, _TWITCH / 4, (count, 10))
    talk = np.interp(through * (len(opening) - 1), np.arange(len(opening)), opening)
    expressions[:, 6] += 0.07 * talk
    where = rng.normal(0, 0.03, 2) + rng.normal(0, 0.004, (count, 2)).cumsum(axis=0)
    roll = rng.normal(0, 0.045) + rng.normal(0, 0.01, count).cumsum()
    size = face.size * np.exp(rng.normal(0, 0.05))
    blink = int(rng.integers(count)) if rng.random() < 0.3 else -1
    light = _light(face, rng)
    for frame in range(count):
        if frame == blink:
            expressions[frame, 3] = -0.85
        place = _Place(where[frame], roll[frame], size)
        picture = _draw(face, expressions[frame], place) * light
        grain = face.grain * rng.standard_normal((SIZE, SIZE, 1), np.float32)
        picture += np.repeat(grain, 3, axis=2)
        yield np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def _light(face: Face, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(SIZE, SIZE, 3): a lamp's share for every pixel, a little different in every take."""
    across = np.linspace(-1, 1, SIZE)
    x, y = face.light + rng.normal(0, 0.03, 2)
    lamp = 1 + x * across[None, :] + y * across[:, None]
    light: Array = np.clip(lamp, 0.35, 1.6)[:, :, None] * rng.uniform(0.9, 1.1)
    return np.repeat(light.astype(np.float32), 3, axis=2)  # NumPy's loops over three are slow


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the head is: its centre off the middle (shares of the picture), roll (rad), size."""

    where: Array
    roll: float
    size: float

    def pixels(self, points: Array) -> npt.NDArray[np.int32]:
        """Points (n, 2) in half-widths of the head, y downward, as OpenCV's 1/16 pixels."""
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        turn, centre = np.array([[cos, sin], [-sin, cos]]), np.array([0.5, 0.52]) + self.where
        pixels: Array = (points @ turn * self.size + centre) * SIZE
        return np.rint(pixels * 16).astype(np.int32)


def _oval(x: float, y: float, wide: float, high: float) -> Array:
    return _ROUND * (wide, high) + (x, y)


def _draw(face: Face, expression: Array, place: _Place) -> npt.NDArray[np.uint8]:
    """One picture (SIZE, SIZE, 3), unlit."""
    layers = [*face.skull, face.hairline, *_features(face, expression)]
    corners = place.pixels(np.concatenate([points for points, _ in layers]))  # all at once
    picture = np.full((SIZE, SIZE, 3), np.clip(face.wall, 0, 255), np.uint8)
    start = 0
    for number, (points, shade) in enumerate(layers):
        if number == len(face.skull):
            cv2.GaussianBlur(picture, (0, 0), 1.6, dst=picture)
        end = start + len(points)
        cv2.fillPoly(picture, [corners[start:end]], shade, cv2.LINE_AA, 4)
        start = end
    cv2.GaussianBlur(picture, (0, 0), 0.45, dst=picture)
    return picture


def _features(face: Face, expression: Array) -> list[Layer]:
    """Eyes, brows, nostrils and mouth."""
    inner, outer, together, eye, lower, corner, opening, width, lip, nose = expression
    layers: list[Layer] = []

    def fill(points: Array, colour: Colour | float) -> None:
        layers.append((points, face.shade(colour)))

    wrinkle = float(np.clip(nose, 0, 1.3))
    for s in (-1, 1):
        _eye(fill, face, s, eye, lower)
        # The brow: an arc from the inner to the outer end, thinner outside.
        ends = np.array([[0.17 - together, -0.46 - inner], [0.72, -0.44 - outer]])
        middle = ends.mean(axis=0) - [0, 0.07 + 0.2 * max(outer, 0)]
        spine = _curve(ends[0], middle, ends[1])
        thick = face.brow * np.linspace(1, 0.5, len(spine))[:, None] * [[0, 1]]
        fill(np.vstack([spine - thick, (spine + thick)[::-1]]) * [s, 1], face.hair * 0.7)
        # Nostril, and the folds beside a wrinkled nose.
        fill(_oval(s * 0.1, 0.33 - 0.05 * wrinkle, 0.045, 0.025), 0.4)
        if wrinkle > 0.15:
            fold = _curve([0.16, 0.12], [0.26, 0.24], [0.3, 0.45]) * [s, 1]
            edge = fold + np.array([0.035 * wrinkle, 0])
            fill(np.vstack([fold, edge[::-1]]), 1 - 0.3 * wrinkle)
    _mouth(fill, face, (corner, opening, width, lip))
    return layers


Fill = Callable[[Array, Colour | float], None]


def _eye(fill: Fill, face: Face, side: int, eye: float, lower: float) -> None:
    """One eye: `eye` opens it, `lower` raises its lower lid."""
    high = 0.13 * max(1 + eye, 0.12)
    low = 0.095 * max(1 + 0.5 * eye - 0.7 * lower, 0.15)
    x = side * face.apart
    left, right = [x - 0.22, -0.17], [x + 0.22, -0.17]
    upper = _curve(left, [x, -0.17 - 2 * high], right)
    under = _curve(right, [x, -0.17 + 2 * low], left)
    rim = np.array([[0, 0.035]])
    fill(np.vstack([upper - rim, under + rim * 0.4]), face.hair * 0.35 + 10)
    fill(np.vstack([upper, under]), np.array([215.0, 220, 225]))
    # The iris, cut by the lids.
    disc = _oval(x, -0.17, 0.105, 0.115)
    top, bottom = -0.17 - high * 0.95, -0.17 + low * 0.95
    for scale, colour in ((1.0, face.iris), (0.5, np.array([12.0, 12, 12]))):
        ball = (disc - [x, -0.17]) * scale + [x, -0.17]
        fill(np.column_stack([ball[:, 0], np.clip(ball[:, 1], top, bottom)]), colour)


def _mouth(fill: Fill, face: Face, shape: tuple[float, float, float, float]) -> None:
    corner, opening, width, lip = shape
    half = 0.38 + width
    gap = max(opening, 0.0)
    y = 0.68
    left, right = [-half, y - corner], [half, y - corner]
    over, under = y - 0.6 * gap - lip, y + 1.2 * gap + 0.3 * corner
    upper = _curve(left, [0, over - 0.1 - (y - corner - over) * 0.6], right)
    lower = _curve(right, [0, under + 0.17 + (under - y + corner) * 0.6], left)
    fill(np.vstack([upper, lower]), face.lips)
    upper = _curve(left, [0, 2 * over - (y - corner)], right)
    lower = _curve(right, [0, 2 * under - (y - corner) + 0.03], left)
    inside = np.vstack([upper, lower])
    fill(inside * [0.9, 1], np.array([30.0, 25, 55]))
    if gap > 0.03:
        teeth = np.column_stack([inside[:, 0] * 0.75, np.minimum(inside[:, 1], over + 0.4 * gap)])
        fill(teeth, np.array([205.0, 215, 220]))


def _curve(start: npt.ArrayLike, pull: npt.ArrayLike, end: npt.ArrayLike) -> Array:
    """A quadratic Bézier curve (12, 2)."""
    first, second, third = _PULLS
    curve: Array = first * np.asarray(start) + second * np.asarray(pull) + third * np.asarray(end)
    return curve
