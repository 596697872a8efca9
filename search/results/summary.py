"""What a search prints at its end."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.formatting import format_duration, format_value, relative_path
from search.selection.confirm import Setting, winning_setting
from search.selection.test_score import model_name
from search.selection.winner import BEST
from tracking.promotion.promote import NAME, Verdict
from tracking.registry.registry import CHAMPION
from tracking.report.selectors import complete, confirm_end, in_state
from tracking.result import REPORT, WINNER, Confirmation, StudyResult, TestScore, TrialRecord
from tracking.tags import FAIL, RUNNING
from tracking.uri import default_uri, mask_password


@dataclass(frozen=True)
class SearchEnd:
    """What the last lines of a search say."""

    result: StudyResult
    folder: Path  # of the study
    stopped: str  # why the study ended early; empty where it did not
    seconds: float  # duration of the whole command
    tracking_uri: str
    page: str | None  # path of the experiment in MLflow's UI
    settings: Sequence[Setting] = ()  # that were confirmed, the best mean first
    verdict: Verdict | None = None  # of the promotion, if one was requested
    clip: Path | None = None  # a file to try the model on


def summary(end: SearchEnd) -> str:
    """The last lines of a search."""
    result, folder = end.result, end.folder
    trials = complete(result)
    counts = ", ".join(f"{count} {state}" for state, count in result.counts.items() if count)
    lines = [
        f"\nstudy {result.study}: {counts or 'no trials'}"
        + (f" ({end.stopped})" if end.stopped else "")
        + f", in {format_duration(end.seconds)}"
    ]
    if resting := len(in_state(result, RUNNING)):
        words = "1 trial rests at its" if resting == 1 else f"{resting} trials rest at their"
        lines.append(f"{words} newest checkpoint: the same command goes on")
    if trials:
        lines += _best_model(end, trials[0])
    else:
        lines.append("no trial is complete, so there is no best one")
        for failed in in_state(result, FAIL)[:1]:
            lines.append(f"the first failure: trial {failed.number}: {failed.reason}")
    lines.append(f"all trials:    {relative_path(folder / 'figures' / 'trials.csv')}")
    if (folder / REPORT).exists():
        lines.append(f"report:        {relative_path(folder / REPORT)}")
    lines += where_to_compare(end.tracking_uri, end.page)
    return "\n".join(lines)


def where_to_compare(tracking_uri: str, page: str | None) -> Iterator[str]:
    """How to look at MLflow's pages.

    Args:
        tracking_uri: Its server or database.
        page: Path of the experiment in its UI, if known.
    """
    path, uri = page or "", mask_password(tracking_uri)
    if uri.startswith("http"):
        yield f"compare them:  {uri.rstrip('/')}{path}"
        return
    # A database, which has no pages of its own.
    beside = Path(sys.executable).with_name("mlflow")
    mlflow = relative_path(beside) if beside.exists() else "mlflow"
    command = [mlflow, "ui", "--workers", "1", "--backend-store-uri", uri]
    yield f"compare them:  {shlex.join(command)}"
    yield f"               then open http://127.0.0.1:5000{path}"


def _best_model(end: SearchEnd, best: TrialRecord) -> Iterator[str]:
    result, folder = end.result, end.folder
    beside = "; ".join(f"{y.title}: {y.uar:.4f}" for y in result.yardsticks)
    against = f" ({beside})" if beside else ""
    yield f"best trial {best.number}: validation UAR {best.value:.4f}{against}"
    chosen = winning_setting(end.settings)
    if end.settings:
        yield from _confirmed(end.settings, result.confirm)
    params = best.params if chosen is None else chosen.params
    width = max(map(len, params), default=0)
    for key, value in params.items():
        yield f"  {key:<{width}}  {format_value(value)}"
    if (score := result.test) is not None:
        yield from _tested(score)
        model = (best.number, None) if chosen is None else (chosen.trial, chosen.median_run)
        if (score.trial, score.run) != model:
            other = model_name(score)
            yield f"               of another model, {other}: scored once, when that was the best"
    if (verdict := end.verdict) is not None:
        what = "champion:" if verdict.promoted else "not promoted:"
        instead = f" in place of {verdict.replaced}" if verdict.replaced else ""
        named = f"{verdict.version}{instead}: " if verdict.promoted and verdict.changed else ""
        yield f"{what:<14} {named}{verdict.reason}"
    model_folder = folder / (BEST if chosen is None else WINNER)
    if model_folder.is_dir():
        yield f"its model:     {relative_path(model_folder)}"
        uri = end.tracking_uri if verdict is not None and verdict.promoted else None
        yield f"predict:       {_predict(model_folder, uri, folder.parent, end.clip)}"


def _predict(model: Path, tracking_uri: str | None, runs: Path, clip: Path | None) -> str:
    """The command that names the emotion of a file, with the champion or the model in a folder."""
    beside = Path(sys.executable).with_name("fdan")
    words = [relative_path(beside), "predict"]
    if not beside.exists():  # -P: whatever lies in the folder where this is pasted
        words = [relative_path(Path(sys.executable)), "-P", "-m", "fdan", "predict"]
    file = "clip.wav" if clip is None else relative_path(clip)
    if tracking_uri is None:
        return shlex.join([*words, relative_path(model), file])
    # Without a word, predict looks into ./runs/mlflow.db.
    own = tracking_uri == default_uri(runs) and runs == Path.cwd() / "runs"
    before = "" if own else f"MLFLOW_TRACKING_URI={shlex.quote(mask_password(tracking_uri))} "
    return before + shlex.join([*words, "--model", f"models:/{NAME}@{CHAMPION}", file])


def _confirmed(settings: Sequence[Setting], confirm: Confirmation | None) -> Iterator[str]:
    """The values of fresh seeds, a line a setting, and how sure the winner is."""
    yield "confirmed with fresh seeds, validation UAR:"
    for setting in settings:
        if not setting.values:
            yield f"  trial {setting.trial}: failed with every seed"
            continue
        mean = setting.interval
        sure = f" ({mean.low:.4f} .. {mean.high:.4f})" if len(setting.values) > 1 else ""
        failed = f", failed with {len(setting.failed)} more" if setting.failed else ""
        yield (
            f"  trial {setting.trial}: {mean.value:.4f}{sure}, {len(setting.values)} seeds{failed};"
            f" the search said {setting.search_value:.4f}"
        )
    if confirm is None:
        yield "no setting held with every seed, so there is no winner; the best trial's:"
    else:
        ended = confirm_end(confirm)
        yield f"winner: the setting of trial {confirm.winner}{f'; {ended}' if ended else ''}"


def _tested(score: TestScore) -> Iterator[str]:
    regression, interval = score.baseline_uar, score.interval
    against = "" if regression is None else f"; logistic regression: {regression:.4f}"
    yield (
        f"test part:     UAR {score.uar:.4f}, WAR {score.war:.4f}, w-F1 {score.wf1:.4f}"
        f" ({score.samples} utterances{against})"
    )
    yield (
        f"               95 % interval of the UAR, over {interval.groups} {interval.by}s:"
        f" {interval.low:.4f} .. {interval.high:.4f}"
    )
    for yardstick in score.yardsticks:
        beside = f"{yardstick.title} ({yardstick.uar:.4f})"
        yield f"               {yardstick.difference.words(beside)}"
