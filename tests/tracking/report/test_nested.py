"""The report of a nested study: strictly read, with its figures, and of every shape; and how many
folds a study has, in its report and its model card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracking.report.test_report import HOSTILE, read, written
from tests.tracking.results import beside_yardsticks, result
from tracking import report
from tracking.nested_result import Agreement, NestedResult, OuterResult, PooledScore
from tracking.result import ScoreInterval, StudyResult


def nested(folds: int = 4, outer: int = 4) -> NestedResult:
    study = beside_yardsticks(result())
    assert study.test is not None
    params = [{"lr": 0.01 * n, "layers": 1, "context": "bank"} for n in range(1, folds + 1)]
    return NestedResult(
        study="n",
        study_id="1a2b",
        experiment="fdan-search",
        task="SAVEE{Sv,Sa}",
        outer=outer,
        nested="loso",
        inner_folds="loso",
        state="COMPLETE" if folds == outer else "PAUSED",
        reason=f"{folds} of {outer} outer folds",
        written="2026-12-01T07:06:17+00:00",
        command="python search/run.py --study n --nested loso",
        tracking_uri="sqlite:////data/runs/mlflow.db",
        folds=tuple(
            OuterResult(
                fold=n,
                study=f"n-outer-{n}",
                speakers={f"S{n}": 120},
                trials=20,
                trial=n,
                params=params[n - 1],
                search_uar=0.71,
                confirmed_uar=0.68 if n > 1 else None,
                test_uar=0.5 + n / 100,
                samples=120,
            )
            for n in range(1, folds + 1)
        ),
        agreement={
            "lr": Agreement(tuple(p["lr"] for p in params), 0.37 if folds > 1 else None),
            "layers": Agreement((1,) * folds, 0.0 if folds > 1 else None),
        },
        pooled=PooledScore(
            samples=120 * folds,
            uar=0.5321,
            war=0.54,
            wf1=0.52,
            interval=ScoreInterval(0.4321, 0.6543, 0.95, folds, "speaker"),
            yardsticks=study.test.yardsticks,
        )
        if folds
        else None,
    )


def pages(of: NestedResult, folder: Path) -> tuple[str, str]:
    of.save(folder)
    page, beside = report.write(folder)
    assert (page.name, beside.name) == ("nested.html", "nested.md")
    return page.read_text(encoding="utf-8"), beside.read_text(encoding="utf-8")


def test_it_says_what_one_has_to_know(tmp_path: Path) -> None:
    page, beside = pages(nested(), tmp_path)
    read(page)
    for words in (
        "UAR of 0.532 (95 % interval 0.432 to 0.654 over 4 speakers)",
        "Optimism: **\\+0.178**",
        "| 3 of 4 | S3 | 120 | 0.710 | 0.680 | 0.530 | 3 of 20 |",
        "| lr | 0.01 | 0.02 | 0.03 | 0.04 | spread over 37",
        "| layers | 1 | 1 | 1 | 1 | all the same |",
        "SVM on MFCC statistics",
        "take it as the least to allow for",
        "python search/run.py --study n --nested loso",
        "n-outer-1, n-outer-2, n-outer-3 and n-outer-4",
    ):
        assert words in beside, words
    assert page.count("<svg") > 0 and "goes on with the others" not in page


@pytest.mark.parametrize("folds", [0, 1, 2])
def test_what_is_there_so_far(tmp_path: Path, folds: int) -> None:
    page, beside = pages(nested(folds), tmp_path)
    read(page)
    words = "No outer fold is done" if folds == 0 else f"{folds} of 4 outer folds are done."
    assert words in beside


def test_names_from_outside_are_no_markup(tmp_path: Path) -> None:
    of = nested()
    folds = tuple(
        replace(fold, study=HOSTILE, speakers={HOSTILE: 1}, params={HOSTILE: HOSTILE})
        for fold in of.folds
    )
    agreement = {HOSTILE: Agreement((HOSTILE, HOSTILE), 0.5)}
    page, _ = pages(
        replace(of, study=HOSTILE, command=HOSTILE, folds=folds, agreement=agreement), tmp_path
    )
    read(page)
    assert "<script" not in page


def test_a_study_says_how_many_folds_it_has(tmp_path: Path) -> None:
    def beside(of: StudyResult, name: str) -> str:
        (tmp_path / name).mkdir()
        return written(of, tmp_path / name)[1]

    plain, split = result(), result().origin["split"]
    origin = {**plain.origin, "split": {**split, "folds": "loso", "outer": "2/4"}}
    folds = beside(replace(plain, folds=5, origin=origin), "folds")
    assert "folds: 5 folds by speaker: each trial trains all of them" in folds
    assert "outer fold: 2/4: the test part is this one" in folds
    assert "Mean of 3 fresh seeds, mean over 5 folds" in folds
    assert "Validation UAR on the same speech and 5 folds" in folds
    unconfirmed = beside(replace(result(confirm=0, test=False), folds=5), "unconfirmed")
    assert "Mean over 5 folds, one seed, not confirmed" in unconfirmed
    without = beside(plain, "without")
    assert "folds" not in without.lower()
