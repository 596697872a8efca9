"""Figures of one trial, as PNG files: the confusion matrix and the learning curve.

Figures are drawn with matplotlib's objects on the Agg canvas: pyplot keeps global state and
wants the main thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from fdan.emotions import EMOTIONS
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
_CHANCE: Final = 1 / len(EMOTIONS)

Epochs = Sequence[tuple[int, Mapping[str, float]]]
"""(epoch, metrics) in order."""


def confusion_matrix(confusion: Ints, file: Path, title: str) -> Path:
    """Draw a confusion matrix: colours by the share of each true class, so that rare emotions
    show as well as frequent ones; counts and per cents in the cells.

    Args:
        confusion: (7, 7) counts; rows are the true class, columns the predicted one.
        file: The PNG file, which is written whole or not at all.
        title: First line, above UAR and WAR.
    """
    classes = range(len(EMOTIONS))
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals, 1)[:, None]
    scores = measures(confusion)
    line = f"UAR {scores.uar:.3f}   WAR {scores.war:.3f}   {confusion.sum()} utterances"
    figure = _figure((7.4, 6.9), 0.175, title, line)
    axes = figure.add_axes((0.175, 0.165, 0.69 * 6.9 / 7.4, 0.69))  # square
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        share = shares[row, column]
        text = f"{count}\n{share:.0%}" if count else "0" if totals[row] else "–"
        color = "white" if share > 0.55 else _INK if count else "#aab5bf"
        drawn = axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
        drawn.set_fontweight("bold" if row == column and count else "normal")
    names = [f"{emotion}\n(n={total})" for emotion, total in zip(EMOTIONS, totals, strict=True)]
    axes.set_xticks(classes, EMOTIONS, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(classes, names)
    axes.set_xlabel("predicted", color=_INK)
    axes.set_ylabel("true", color=_INK)
    # White lines between the cells, none around them.
    axes.set_xticks(np.arange(len(EMOTIONS) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(EMOTIONS) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, colors=_INK, labelsize=9)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_axes((0.845, 0.165, 0.022, 0.69)))
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0%", "25%", "50%", "75%", "100%"])
    bar.ax.tick_params(length=0, colors=_FAINT, labelsize=8)
    bar.set_label("share of the true class", color=_FAINT, fontsize=8)
    return _save(figure, file)


def learning_curve(epochs: Epochs, file: Path, title: str) -> Path:
    """Draw a trial's losses and validation scores over its epochs.

    Args:
        epochs: At least one. Drawn are `train/loss`, `validation/loss`, `validation/uar` and
            `value`, as far as they exist; the best value is marked.
        file: The PNG file, which is written whole or not at all.
        title: First line.
    """
    from matplotlib.ticker import MaxNLocator

    values = [(epoch, metrics["value"]) for epoch, metrics in epochs if "value" in metrics]
    finite = [(epoch, value) for epoch, value in values if np.isfinite(value)]
    first, last = epochs[0][0], epochs[-1][0]
    summary = f"{len(epochs)} epochs"
    if finite:
        best_epoch, best = max(finite, key=lambda pair: pair[1])
        summary += f"   value {finite[-1][1]:.3f}   best {best:.3f} (epoch {best_epoch})"
    figure = _figure((7.4, 6.4), 0.105, title, summary)
    above = figure.add_axes((0.105, 0.55, 0.86, 0.31))
    below = figure.add_axes((0.105, 0.105, 0.86, 0.395), sharex=above)

    _line(above, epochs, "train/loss", "training loss", color=_TRAIN)
    _line(above, epochs, "validation/loss", "validation loss", color=_VALIDATION, linestyle="--")
    above.set_ylabel("loss")
    above.tick_params(labelbottom=False)

    uar = {"color": _VALIDATION, "alpha": 0.55, "linewidth": 1.3}
    _line(below, epochs, "validation/uar", "validation UAR", **uar)
    _line(below, epochs, "value", "value (mean UAR of the last 5 epochs)", color=_VALUE)
    below.axhline(_CHANCE, color=_FAINT, linewidth=1, linestyle=":", label="chance", zorder=1)
    if finite:
        below.plot([best_epoch], [best], "o", color=_VALUE, markersize=7, zorder=4)
        right = best_epoch > (first + last) / 2
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
        low = min(_CHANCE, *(value for _, value in finite))
        below.set_ylim(bottom=max(0.0, low - 0.05), top=None)
    below.set_ylabel("validation UAR")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlim(first - 0.4, last + 0.4)
    _plain(above, legend="upper right")
    _plain(below, legend="lower right")
    return _save(figure, file)


def _line(axes: Axes, epochs: Epochs, key: str, label: str, **style: Any) -> None:
    points = [(epoch, metrics[key]) for epoch, metrics in epochs if key in metrics]
    if points:
        markers = {"marker": "o", "markersize": 3.5} if len(points) <= 25 else {}
        axes.plot(
            *np.transpose(points), label=label, zorder=3, **{"linewidth": 1.9, **markers, **style}
        )


def _plain(axes: Axes, legend: Literal["upper right", "lower right"]) -> None:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK, labelsize=9)
    axes.spines[:].set_color(_FAINT)
    axes.spines[["left", "top", "right"]].set_visible(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=_INK, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=legend, fontsize=9, labelcolor=_INK, edgecolor="none", framealpha=0.9)


def _figure(inches: tuple[float, float], left: float, title: str, line: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(left, 0.945, title, fontsize=13, weight="bold", color=_INK, va="center")
    figure.text(left, 0.9, line, fontsize=10, color=_FAINT, va="center")
    return figure


def _save(figure: Figure, file: Path) -> Path:
    write_atomic(file, lambda path: figure.savefig(path, format="png"))
    return file
