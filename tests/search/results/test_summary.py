"""What a search prints at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.results.summary import SearchEnd, summary
from tests.tracking.results import beside_yardsticks, shapes

PAGE = "/#/experiments/1/runs"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://me:secret@host:5000/", f"compare them:  http://me:***@host:5000{PAGE}"),
        ("http://host:5000", f"compare them:  http://host:5000{PAGE}"),
        ("sqlite:////a/mlflow.db", "mlflow ui --workers 1 --backend-store-uri sqlite:////a/"),
        ("postgresql://me:secret@db/mlflow", "--backend-store-uri 'postgresql://me:***@db/mlflow'"),
        ("mysql+pymysql://me:secret@db/m", "--backend-store-uri 'mysql+pymysql://me:***@db/m'"),
    ],
)
def test_where_to_compare_trials_without_a_password(uri: str, words: str, tmp_path: Path) -> None:
    result = shapes()["no-trials"]
    end = SearchEnd(result, tmp_path, stopped="", seconds=1.0, tracking_uri=uri, page=PAGE)
    text = summary(end)
    assert words in text
    assert "secret" not in text
    assert ("http://127.0.0.1:5000" in text) == ("backend-store-uri" in text)


def test_the_yardsticks_stand_beside_the_winner(tmp_path: Path) -> None:
    result = beside_yardsticks(shapes()["whole"])
    assert result.test is not None
    end = SearchEnd(result, tmp_path, stopped="", seconds=1.0, tracking_uri="", page=None)
    text = summary(end)
    assert "(logistic regression: 0.4321; SVM on MFCC statistics: 0.9876)" in text
    uar = result.test.uar
    for title, beside, words in (
        ("above logistic regression", uar - 0.1234, "0.1234 (+0.0734 .. +0.1834, p = 0.0021)"),
        ("below SVM on MFCC statistics", uar + 0.0711, "0.0711 (-0.1211 .. -0.0111, p = 0.0312)"),
    ):
        assert f"{title} ({beside:.4f}) by {words}" in text
