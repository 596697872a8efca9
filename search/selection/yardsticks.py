"""The yardsticks of a study: on the validation part before the search, and on the test part when
its model is scored, never before."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fdan.evaluation.predictions import Predictions
from fdan.evaluation.statistics import LEVEL, bootstrap, compare
from fdan.evaluation.yardsticks import (
    LOGISTIC_REGRESSION,
    YARDSTICKS,
    Yardstick,
    YardstickData,
    yardstick_predictions,
)
from search.selection.winner import ChosenModel
from tracking import result
from tracking.tags import BASELINE_UAR, TEST_PREFIX, YARDSTICK_PREFIX


def validation_yardsticks(
    data: YardstickData, notify: Callable[[str], None]
) -> tuple[result.YardstickUar, ...]:
    """What the search has to beat on the validation part.

    Args:
        data: What the yardsticks learn from.
        notify: Function that shows the user a line, here why one is left out.
    """
    scores = []
    for yardstick in YARDSTICKS:
        if yardstick.follows_winner:
            continue
        if reason := yardstick.missing(data):
            notify(f"yardstick left out: {yardstick.title} ({reason})")
            continue
        predictions = yardstick_predictions(yardstick, data, data.split.acoustic_validation)
        uar = predictions.measures().uar
        scores.append(result.YardstickUar(yardstick.name, yardstick.title, uar))
    return tuple(scores)


def score_yardsticks(
    chosen: ChosenModel, predictions: Predictions, scored: Sequence[result.YardstickScore]
) -> tuple[result.YardstickScore, ...]:
    """Score on the test part what was not scored there yet, and store its answers beside the
    model's. Returns the scores of all.

    Args:
        chosen: Model of the study.
        predictions: Its answers on the test part.
        scored: Yardsticks that were scored before.
    """
    scores = {score.name: score for score in scored}
    missing = [y for y in YARDSTICKS if y.name not in scores or not _file(chosen, y).exists()]
    if not missing:
        return tuple(scored)
    run, data = chosen.model.run, chosen.data
    frozen = run.model.tuning == "frozen"
    # Where the driver trains nothing, features of a tuned backbone's speech are not computed.
    speech = data.load_speech(run) if frozen or data.spec.cluster is None else None
    features = data.load(run) if frozen else None
    material = YardstickData(data.task, data.split, speech, features, run)
    for yardstick in missing:
        if not yardstick.missing(material):
            answers = yardstick_predictions(yardstick, material, data.split.acoustic_test)
            scores[yardstick.name] = score_yardstick(yardstick, answers, predictions)
            answers.write(_file(chosen, yardstick))
    return tuple(scores.values())


def validation_metrics(scores: Sequence[result.YardstickUar]) -> dict[str, float]:
    """MLflow's metrics of the yardsticks on the validation part."""
    metrics = {f"{YARDSTICK_PREFIX}{score.name}/uar": score.uar for score in scores}
    regression = [score.uar for score in scores if score.name == LOGISTIC_REGRESSION]
    if regression:
        metrics[BASELINE_UAR] = regression[0]
    return metrics


def scored_metrics(score: result.TestScore) -> dict[str, float]:
    """MLflow's metrics of a study's model on the test part, and of the yardsticks beside it."""
    metrics = {"war": score.war, "uar": score.uar, "wf1": score.wf1}
    if score.baseline_uar is not None:
        metrics[BASELINE_UAR] = score.baseline_uar
    for yardstick in score.yardsticks:
        prefix = f"{YARDSTICK_PREFIX}{yardstick.name}"
        metrics[f"{prefix}/uar"] = yardstick.uar
        metrics[f"{prefix}/difference"] = yardstick.difference.value
        metrics[f"{prefix}/p"] = yardstick.difference.p
    return {TEST_PREFIX + name: value for name, value in metrics.items()}


def _file(chosen: ChosenModel, yardstick: Yardstick) -> Path:
    return chosen.folder / result.YARDSTICK_PREDICTIONS.format(yardstick.name)


def score_yardstick(
    yardstick: Yardstick, answers: Predictions, winner: Predictions
) -> result.YardstickScore:
    """A yardstick's score beside the winner's.

    Args:
        yardstick: The yardstick.
        answers: Its answers on the test part.
        winner: The winner's, on the same utterances.
    """
    interval, paired = bootstrap(answers), compare(winner, answers)
    return result.YardstickScore(
        yardstick.name,
        yardstick.title,
        answers.measures().uar,
        result.ScoreInterval(interval.low, interval.high, LEVEL, interval.groups, interval.by),
        result.PairedDifference(paired.difference, paired.low, paired.high, paired.p),
    )
