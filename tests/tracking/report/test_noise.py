"""What a report says of the noise: how sure the winner is, and what settings do beside the seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracking.report.test_report import SHAPES, section, written
from tracking.report.selectors import confirm_end
from tracking.result import SEPARATED, UNFINISHED

pytestmark = pytest.mark.long


def test_how_the_confirmation_ended_is_said(tmp_path: Path) -> None:
    of = SHAPES["large"]
    assert of.confirm is not None
    first, second, third = of.confirm.settings
    budget = replace(of.confirm, runs=9, budget=9, seeds_each=3)
    rivals = f"not separated from trials {second.trial}, {third.trial}, with all"
    seeds = f"{len(of.confirm.seeds)} seeds of each"
    assert confirm_end(budget) == f"{rivals} {seeds}: 9 of at most 9 runs"
    fewer = replace(third, values=third.values[:2])
    close = replace(budget, runs=8, settings=(first, second, fewer))
    assert confirm_end(close).startswith(f"not separated from trial {second.trial}, with all")
    alone = replace(close, settings=(first, fewer))
    assert confirm_end(alone) == f"no other setting held, with all {seeds}: 8 of at most 9 runs"
    separated = replace(close, ended=SEPARATED, runs=7)
    assert confirm_end(separated).startswith(
        "separated after 7 of at most 9 runs: no other setting"
    )
    assert confirm_end(replace(close, ended=UNFINISHED, runs=4)).startswith(
        "so far: 4 of at most 9"
    )
    assert confirm_end(replace(budget, settings=(first,), runs=3, budget=3)) == "", "no other"
    earlier = replace(budget, runs=None, budget=None, seeds_each=None, noise=None)
    assert confirm_end(earlier) == ""
    for confirm, ended in (
        (separated, "Separated after 7 of"),
        (budget, "Not separated from trials"),
    ):
        page, beside = written(replace(of, confirm=confirm), tmp_path)
        assert ended in section(page, "ranking") and ended in beside
    assert f"| {third.trial} | 2 |" in written(replace(of, confirm=close), tmp_path)[1]
    written(replace(of, confirm=earlier), tmp_path)


def test_each_settings_effect_is_set_beside_the_noise(tmp_path: Path) -> None:
    page, beside = written(SHAPES["large"], tmp_path)
    assert "the seed alone moves a value by 0.014" in section(page, "importance")
    for name, words in (
        ("alpha", "larger than the noise"),
        ("decay", "smaller than the noise"),
        ("layers", "no effect seen"),
        ("kernels", "an effect; noise unknown"),
    ):
        assert re.search(rf"^\| {name} \| [\d.]+ \| [\d.]+ \| {words} \|$", beside, re.MULTILINE)
    page, _ = written(SHAPES["unconfirmed"], tmp_path)
    assert "the noise of the seed was not measured" in section(page, "importance")
