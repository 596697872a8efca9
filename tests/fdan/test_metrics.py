"""WAR, UAR and weighted F1 against scikit-learn, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from fdan.metrics import confusion_matrix, measures

LABELS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_as_scikit_learn_has_them(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    found = measures(confusion_matrix(truth, predicted, 7))
    present = np.unique(truth)
    recalls = reference.recall_score(
        truth, predicted, labels=present, average=None, zero_division=0
    )
    assert found.war == pytest.approx(reference.accuracy_score(truth, predicted))
    assert found.uar == pytest.approx(recalls.mean())
    assert found.wf1 == pytest.approx(
        reference.f1_score(truth, predicted, average="weighted", zero_division=0)
    )
    expected = reference.confusion_matrix(truth, predicted, labels=range(7))
    np.testing.assert_array_equal(found.confusion, expected)


def test_by_hand() -> None:
    # Class 0: 3 of 4 right; class 1: 0 of 1; class 2 not in the truth, but predicted once.
    confusion = np.array([[3, 1, 0], [0, 0, 1], [0, 0, 0]])
    found = measures(confusion)
    assert found.war == pytest.approx(3 / 5)
    assert found.uar == pytest.approx((3 / 4 + 0) / 2)
    assert found.wf1 == pytest.approx((2 * 3 / (4 + 3)) * 4 / 5)
