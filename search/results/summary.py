"""What a search prints at its end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.formatting import format_duration, format_value
from search.selection import confirm
from search.selection import test_score as scoring
from search.selection.winner import BEST
from search.study.open import REASON
from search.study.queries import best_trial, count_finished, running_trials
from tracking.promotion.promote import NAME, Verdict
from tracking.registry.registry import CHAMPION
from tracking.result import REPORT, WINNER, TestScore
from tracking.uri import default_uri, mask_password


def summary(
    opened: optuna.Study,
    bar: float | None,
    folder: Path,
    stopped: str,
    tracking_uri: str,
    page: str | None,
    seconds: float,
    settings: Sequence[confirm.Setting],
    verdict: Verdict | None,
    clip: Path | None,
) -> str:
    """Several lines. bar: the baseline's validation UAR; stopped: why the study ended early, or
    nothing; page: path of the experiment in MLflow's UI; seconds: that the whole command took;
    settings: what was confirmed, the best mean first; verdict: of its promotion, if that was asked
    for; clip: a file to try the model on."""
    best = best_trial(opened)
    lines: list[str] = []
    counts = ", ".join(
        f"{count} {state}" for state, count in count_finished(opened).items() if count
    )
    resting = len(running_trials(opened))
    lines.append(
        f"\nstudy {opened.study_name}: {counts or 'no trials'}"
        + (f" ({stopped})" if stopped else "")
        + f", in {format_duration(seconds)}"
    )
    if resting:
        trials = "1 trial rests at its" if resting == 1 else f"{resting} trials rest at their"
        lines.append(f"{trials} newest checkpoint: the same command goes on")
    if best is None or best.value is None:
        lines.append("no trial is complete, so there is no best one")
        for failed in opened.get_trials(deepcopy=False, states=(TrialState.FAIL,))[:1]:
            why = failed.user_attrs.get(REASON)
            lines.append(f"the first failure: trial {failed.number}: {why}")
    else:
        against = "" if bar is None else f" (logistic regression: {bar:.4f})"
        lines.append(f"best trial {best.number}: validation UAR {best.value:.4f}{against}")
        winner = confirm.winner(settings)
        lines += _confirmed(settings)
        params = best.params if winner is None else winner.params
        width = max(map(len, params))
        for key, value in params.items():
            lines.append(f"  {key:<{width}}  {format_value(value)}")
        number = best.number if winner is None else winner.trial
        if (stored := scoring.stored_score(opened)) is not None:
            lines.append(_tested(stored.score, number, None if winner is None else winner.typical))
        model = folder / (BEST if winner is None else WINNER)
        if verdict is not None:
            what = "champion:" if verdict.promoted else "not promoted:"
            lines.append(f"{what:<14} {_promoted(verdict)}")
        if model.is_dir():
            lines.append(f"its model:     {_relative(model)}")
            where = tracking_uri if verdict is not None and verdict.promoted else None
            lines.append(f"predict:       {_predict(model, where, folder.parent, clip)}")
    lines.append(f"all trials:    {_relative(folder / 'figures' / 'trials.csv')}")
    if (folder / REPORT).exists():
        lines.append(f"report:        {_relative(folder / REPORT)}")
    path, uri = page or "", mask_password(tracking_uri)
    if uri.startswith("http"):
        lines.append(f"compare them:  {uri.rstrip('/')}{path}")
    else:  # a database, which has no pages of its own
        beside = Path(sys.executable).with_name("mlflow")
        mlflow = _relative(beside) if beside.exists() else "mlflow"
        command = [mlflow, "ui", "--workers", "1", "--backend-store-uri", uri]
        lines.append(f"compare them:  {shlex.join(command)}")
        lines.append(f"               then open http://127.0.0.1:5000{path}")
    return "\n".join(lines)


def _promoted(verdict: Verdict) -> str:
    instead = f" in place of {verdict.replaced}" if verdict.replaced else ""
    named = f"{verdict.version}{instead}: " if verdict.promoted and verdict.changed else ""
    return f"{named}{verdict.reason}"


def _predict(model: Path, tracking_uri: str | None, runs: Path, clip: Path | None) -> str:
    """The command that names the emotion of a file, with the champion or the model in a folder."""
    words = [_relative(Path(sys.executable)), "-m", "fdan", "predict"]
    file = "clip.wav" if clip is None else _relative(clip)
    if tracking_uri is None:
        return shlex.join([*words, _relative(model), file])
    # Without a word, predict looks into ./runs/mlflow.db.
    own = tracking_uri == default_uri(runs) and runs == Path.cwd() / "runs"
    before = "" if own else f"MLFLOW_TRACKING_URI={shlex.quote(mask_password(tracking_uri))} "
    return before + shlex.join([*words, "--model", f"models:/{NAME}@{CHAMPION}", file])


def _confirmed(settings: Sequence[confirm.Setting]) -> list[str]:
    """What fresh seeds said, a line a setting."""
    if not settings:
        return []
    winner = confirm.winner(settings)
    lines = ["confirmed with fresh seeds, validation UAR:"]
    for one in settings:
        if not one.values:
            lines.append(f"  trial {one.trial}: failed with every seed")
            continue
        mean, low, high = one.interval.value, one.interval.low, one.interval.high
        sure = f" ({low:.4f} .. {high:.4f})" if len(one.values) > 1 else ""
        failed = f", failed with {len(one.failed)} more" if one.failed else ""
        lines.append(
            f"  trial {one.trial}: {mean:.4f}{sure}, {len(one.values)} seeds{failed};"
            f" the search said {one.search_value:.4f}"
        )
    if winner is None:
        lines.append("no setting held with every seed, so there is no winner; the best trial's:")
    else:
        lines.append(f"winner: the setting of trial {winner.trial}")
    return lines


def _tested(found: TestScore, best: int, run: int | None) -> str:
    """The test part's line, always with the model that it is about."""
    against = (
        "" if found.baseline_uar is None else f"; logistic regression: {found.baseline_uar:.4f}"
    )
    low, high = found.interval.low, found.interval.high
    by = f"{found.interval.groups} {found.interval.by}s"
    line = (
        f"test part:     UAR {found.uar:.4f}, WAR {found.war:.4f}, w-F1 {found.wf1:.4f}"
        f" ({found.samples} utterances{against})\n"
        f"               95 % interval of the UAR, over {by}: {low:.4f} .. {high:.4f}"
    )
    if (found.trial, found.run) == (best, run):
        return line
    other = scoring.named(found.trial, found.run)
    return f"{line}\n               of another model, {other}: scored once, when that was the best"


def _relative(path: Path) -> str:
    """As short as one can type it from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
