"""What a search prints at its end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search import study, yardstick
from search.progress import duration, shown
from search.yardstick import Tested


def summary(
    opened: optuna.Study,
    bar: float | None,
    folder: Path,
    stopped: str,
    tracking_uri: str,
    page: str | None,
    seconds: float,
) -> str:
    """Several lines. bar: the baseline's validation UAR; stopped: why the study ended early, or
    nothing; page: path of the experiment in MLflow's UI; seconds: that the whole command took."""
    best = study.best(opened)
    lines: list[str] = []
    counts = ", ".join(f"{count} {state}" for state, count in study.counts(opened).items() if count)
    resting = len(study.under_way(opened))
    lines.append(
        f"\nstudy {opened.study_name}: {counts or 'no trials'}"
        + (f" ({stopped})" if stopped else "")
        + f", in {duration(seconds)}"
    )
    if resting:
        trials = "1 trial rests at its" if resting == 1 else f"{resting} trials rest at their"
        lines.append(f"{trials} newest checkpoint: the same command goes on")
    if best is None or best.value is None:
        lines.append("no trial is complete, so there is no best one")
        for failed in opened.get_trials(deepcopy=False, states=(TrialState.FAIL,))[:1]:
            why = failed.user_attrs.get(study.REASON)
            lines.append(f"the first failure: trial {failed.number}: {why}")
    else:
        against = "" if bar is None else f" (logistic regression: {bar:.4f})"
        lines.append(f"best trial {best.number}: validation UAR {best.value:.4f}{against}")
        width = max(map(len, best.params))
        for key, value in best.params.items():
            lines.append(f"  {key:<{width}}  {shown(value)}")
        if (found := yardstick.tested(opened)) is not None:
            lines.append(_tested(found, best.number))
        if (folder / "best").is_dir():
            lines.append(f"its model:     {_relative(folder / 'best')}")
    lines.append(f"all trials:    {_relative(folder / 'figures' / 'trials.csv')}")
    path = page or ""
    if tracking_uri.startswith("sqlite:///"):
        beside = Path(sys.executable).with_name("mlflow")
        mlflow = _relative(beside) if beside.exists() else "mlflow"
        command = [mlflow, "ui", "--workers", "1", "--backend-store-uri", tracking_uri]
        lines.append(f"compare them:  {shlex.join(command)}")
        lines.append(f"               then open http://127.0.0.1:5000{path}")
    else:
        lines.append(f"compare them:  {tracking_uri.rstrip('/')}{path}")
    return "\n".join(lines)


def _tested(found: Tested, best: int) -> str:
    """The test part's line, always with the trial that it is about."""
    against = (
        "" if found.baseline_uar is None else f"; logistic regression: {found.baseline_uar:.4f}"
    )
    line = (
        f"test part:     UAR {found.uar:.4f}, WAR {found.war:.4f}, w-F1 {found.wf1:.4f}"
        f" ({found.samples} utterances{against})"
    )
    if found.trial == best:
        return line
    return f"{line}\n               of trial {found.trial}: scored once, when that was the best"


def _relative(path: Path) -> str:
    """As short as one can type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
