"""Figures of one trial, as PNG files: the confusion matrix and the learning curve.

Figures are drawn with matplotlib's objects on the Agg canvas: pyplot keeps global state and
wants the main thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from fdan.files import write_atomic
from fdan.metrics import Ints, measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK: Final = "#22303c"
_FAINT: Final = "#8795a1"
_GRID: Final = "#e6eaee"
_TRAIN: Final = "#c2571a"
_VALIDATION: Final = "#1f6fb4"
_VALUE: Final = "#12395f"
_DPI: Final = 150


def confusion_matrix(confusion: Ints, emotions: Sequence[str], file: Path, title: str = "") -> Path:
    """Draw a confusion matrix: colours by the share of each true class, so that rare emotions
    show as well as frequent ones; counts and per cents in the cells.

    Args:
        confusion: (C, C) counts; rows are the true class, columns the predicted one.
        emotions: The C classes' names.
        file: The PNG file, which is written whole or not at all.
        title: First line, above UAR and WAR.

    Returns:
        `file`.
    """
    classes = len(emotions)
    assert confusion.shape == (classes, classes), f"{confusion.shape} for {classes} emotions"
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    scores = measures(confusion)

    figure = _figure(7.4, 6.9)
    axes = figure.add_axes((0.175, 0.165, 0.69 * 6.9 / 7.4, 0.69))  # square
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(classes):
        for column in range(classes):
            count, share = int(confusion[row, column]), shares[row, column]
            colour = "white" if share > 0.55 else _INK if count else "#aab5bf"
            text = f"{count}\n{share:.0%}" if count else "0" if totals[row] else "–"
            weight = "bold" if row == column and count else "normal"
            axes.text(
                column, row, text, ha="center", va="center", color=colour, fontsize=9, weight=weight
            )
    names = [f"{emotion}\n(n={total})" for emotion, total in zip(emotions, totals, strict=True)]
    axes.set_xticks(range(classes), emotions, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), names)
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("true", color=_INK)
    # White lines between the cells, none around them.
    axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, colors=_INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_axes((0.845, 0.165, 0.022, 0.69)))
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0%", "25%", "50%", "75%", "100%"])
    bar.ax.tick_params(length=0, colors=_FAINT, labelsize=8)
    bar.set_label("share of the true class", color=_FAINT, fontsize=8)
    line = f"UAR {scores.uar:.3f}   WAR {scores.war:.3f}   {confusion.sum()} utterances"
    _title(figure, title or "Confusion matrix", line, left=0.175)
    return _save(figure, file)


def learning_curve(
    epochs: Sequence[tuple[int, Mapping[str, float]]],
    file: Path,
    title: str = "",
    chance: float | None = 1 / 7,
) -> Path:
    """Draw a trial's losses and validation scores over its epochs.

    Args:
        epochs: (epoch, metrics) in order. Drawn are `train/loss`, `validation/loss`,
            `validation/uar` and `value`, as far as they exist; the best value is marked.
        file: The PNG file, which is written whole or not at all.
        title: First line.
        chance: UAR of guessing; None for no such line.

    Returns:
        `file`.
    """
    from matplotlib.ticker import MaxNLocator

    figure = _figure(7.4, 6.4)
    above = figure.add_axes((0.105, 0.55, 0.86, 0.31))
    below = figure.add_axes((0.105, 0.105, 0.86, 0.395), sharex=above)

    _line(above, epochs, "train/loss", "training loss", color=_TRAIN)
    _line(above, epochs, "validation/loss", "validation loss", color=_VALIDATION, linestyle="--")
    above.set_ylabel("loss")
    above.tick_params(labelbottom=False)

    uar = {"color": _VALIDATION, "alpha": 0.55, "linewidth": 1.3}
    _line(below, epochs, "validation/uar", "validation UAR", **uar)
    _line(below, epochs, "value", "value (mean UAR of the last 5 epochs)", color=_VALUE)
    if chance is not None:
        below.axhline(chance, color=_FAINT, linewidth=1, linestyle=":", label="chance", zorder=1)
    values = [(epoch, metrics["value"]) for epoch, metrics in epochs if "value" in metrics]
    finite = [(epoch, value) for epoch, value in values if np.isfinite(value)]
    summary = f"{len(epochs)} epochs"
    if finite:
        best_epoch, best = max(finite, key=lambda pair: pair[1])
        below.plot([best_epoch], [best], "o", color=_VALUE, markersize=7, zorder=4)
        right = best_epoch > (epochs[0][0] + epochs[-1][0]) / 2
        below.annotate(
            f"best {best:.3f}, epoch {best_epoch}",
            (best_epoch, best),
            xytext=(-6 if right else 6, 9),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=9,
            color=_VALUE,
            weight="bold",
        )
        last = finite[-1][1]
        summary = f"{len(epochs)} epochs   value {last:.3f}   best {best:.3f} (epoch {best_epoch})"
        low = min([value for _, value in finite] + [chance if chance is not None else best])
        below.set_ylim(bottom=max(0.0, low - 0.05), top=None)
    below.set_ylabel("validation UAR")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    if epochs:
        below.set_xlim(epochs[0][0] - 0.4, epochs[-1][0] + 0.4)
    _plain(above, legend="upper right")
    _plain(below, legend="lower right")
    _title(figure, title or "Learning curve", summary, left=0.105)
    return _save(figure, file)


def _line(
    axes: Axes,
    epochs: Sequence[tuple[int, Mapping[str, float]]],
    key: str,
    label: str,
    **style: Any,
) -> None:
    points = [(epoch, metrics[key]) for epoch, metrics in epochs if key in metrics]
    if points:
        x, y = zip(*points, strict=True)
        style = {"linewidth": 1.9, **style}
        if len(points) <= 25:
            style = {"marker": "o", "markersize": 3.5, **style}
        axes.plot(x, y, label=label, zorder=3, **style)


def _plain(axes: Axes, legend: Literal["upper right", "lower right"]) -> None:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_INK)
        label.set_fontsize(10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=legend, fontsize=9, labelcolor=_INK, edgecolor="none", framealpha=0.9)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, title: str, line: str, left: float) -> None:
    figure.text(left, 0.945, title, fontsize=13, weight="bold", color=_INK, va="center")
    figure.text(left, 0.9, line, fontsize=10, color=_FAINT, va="center")


def _save(figure: Figure, file: Path) -> Path:
    write_atomic(file, lambda path: figure.savefig(path, format="png"))
    return file
