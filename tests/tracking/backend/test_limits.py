"""Against the installed MLflow's own validation."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracking.backend import limits

any_text = st.text(st.characters(codec=None), max_size=300)


def test_the_limits_are_mlflows() -> None:
    from mlflow.utils import validation

    assert limits.PER_CALL["metric"] == validation.MAX_METRICS_PER_BATCH
    for kind in ("param", "tag"):
        assert limits.PER_CALL[kind] == validation.MAX_PARAMS_TAGS_PER_BATCH
    assert limits.ENTITIES_PER_CALL == validation.MAX_ENTITIES_PER_BATCH
    assert limits.NAME == validation.MAX_ENTITY_KEY_LENGTH
    assert limits.PARAM == validation.MAX_PARAM_VAL_LENGTH
    assert limits.TAG == validation.MAX_TAG_VAL_LENGTH
    assert limits.BYTES_PER_CALL < validation.MAX_BATCH_LOG_REQUEST_SIZE


@given(any_text)
def test_mlflow_takes_every_name(text: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    clean = limits.name(text)
    _validate_metric(clean, 1.0, 0, 0)
    _validate_param(clean, "x")
    _validate_tag(clean, "x")
    assert limits.name(clean) == clean, "a clean name stays"


@pytest.mark.parametrize("name", ["validation/uar", "train/loss", "value", "mlflow.note.content"])
def test_our_names_stay(name: str) -> None:
    assert limits.name(name) == name


def test_different_names_stay_different() -> None:
    bad = ["a+b", "a*b", "a_b", "../x", "./x", "/x", "x", "y" * 251, "y" * 252, "", ".", "..", "//"]
    assert len({limits.name(name) for name in bad}) == len(bad)


@given(any_text, st.integers(100, 8000))
def test_values_fit_and_can_be_stored(text: str, longest: int) -> None:
    value = limits.value(text * 50, longest)
    assert len(value) <= longest
    assert "\0" not in value
    value.encode("utf-8")


@pytest.mark.parametrize("thing", [0.1, 1e-300, 7, True, None, [1, 2.5], {"a": None}])
def test_everything_but_text_comes_back_exactly(thing: object) -> None:
    assert json.loads(limits.value(thing, limits.PARAM)) == thing


def test_numpy_values() -> None:
    import numpy as np

    assert limits.value(np.float64(0.1), limits.PARAM) == "0.1"
    assert limits.value(np.arange(3), limits.PARAM) == "[0, 1, 2]"
