"""What a nested study prints: a line for each outer fold, and its end."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from search.formatting import format_duration, format_settings, relative_path
from search.results.summary import where_to_compare
from tracking.nested_result import (
    NESTED_REPORT,
    Agreement,
    NestedResult,
    OuterResult,
    PooledScore,
)
from tracking.report.nested import agreement_words


def outer_line(fold: OuterResult, count: int) -> str:
    """What came of an outer fold, in a line.

    Args:
        fold: The outer fold.
        count: How many there are.
    """
    fresh = "" if fold.confirmed_uar is None else f", fresh seeds {fold.confirmed_uar:.4f}"
    return (
        f"outer fold {fold.fold} of {count}, tests {', '.join(fold.speakers)}: UAR"
        f" {fold.test_uar:.4f} on {fold.samples} utterances; the search said"
        f" {fold.search_uar:.4f}{fresh}"
    )


def nested_summary(result: NestedResult, folder: Path, seconds: float) -> str:
    """The last lines of a nested study.

    Args:
        result: Its result so far.
        folder: Its folder.
        seconds: Duration of the whole command.
    """
    lines = [f"\nnested study {result.study}: {result.reason}, in {format_duration(seconds)}"]
    for fold in result.folds:
        lines += [outer_line(fold, result.outer), f"  {format_settings(fold.params)}"]
    if result.pooled is not None:
        lines += _pooled(result.pooled)
        if len(result.folds) > 1:
            lines.append(f"chosen:        {_agreed(result.agreement)}")
    if len(result.folds) < result.outer:
        lines.append("the same command goes on with the other outer folds")
    lines.append(f"report:        {relative_path(folder / NESTED_REPORT)}")
    lines += where_to_compare(result.tracking_uri, None)
    return "\n".join(lines)


def _agreed(agreement: Mapping[str, Agreement]) -> str:
    """How far the outer folds' winners agree, in a line."""
    same = [name for name, own in agreement.items() if own.spread == 0]
    words = [f"{name} {agreement_words(own)}" for name, own in agreement.items() if own.spread]
    return "; ".join([f"the same {', '.join(same)}"] * bool(same) + words)


def _pooled(pooled: PooledScore) -> Iterator[str]:
    bounds = pooled.interval
    yield (
        f"outer test:    UAR {pooled.uar:.4f}, WAR {pooled.war:.4f}, w-F1 {pooled.wf1:.4f}"
        f" ({pooled.samples} utterances)"
    )
    yield (
        f"               95 % interval of the UAR, over {bounds.groups} {bounds.by}s:"
        f" {bounds.low:.4f} .. {bounds.high:.4f}"
    )
    for yardstick in pooled.yardsticks:
        beside = f"{yardstick.title} ({yardstick.uar:.4f})"
        yield f"               {yardstick.difference.words(beside)}"
