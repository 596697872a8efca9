"""Outer folds: each speaker is tested once, nothing of a fold's speakers is trained on, and what
cannot be had is said in one line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdan.data.folds import default_folds, fold_splits, refit_split
from fdan.data.outer import outer_folds
from fdan.data.provenance import _split_facts
from fdan.data.split import Split, SplitConfig, split
from fdan.data.task import Task
from fdan.errors import ConfigError, DataError
from tests.fdan.data.test_folds import filmed
from tests.tasks import acted, fer, store, task_of, who


def assert_apart(task: Task, division: Split) -> set[tuple[str, str | None]]:
    """No speaker of the test part, and no film of its speech, is trained or validated on; returns
    them."""
    tested = who(task, "acoustic", division.acoustic_test)
    train = who(task, "acoustic", division.acoustic_train)
    validation = who(task, "acoustic", division.acoustic_validation)
    assert tested and train and validation
    assert not tested & (train | validation | who(task, "visual", division.visual_train))
    contents = task.samples("acoustic").contents
    films = {task.samples("visual").contents[i] for i in division.visual_train}
    assert not films & {contents[i] for i in division.acoustic_test}
    return tested


@settings(max_examples=40, deadline=None)
@given(
    takes=st.lists(st.integers(1, 5), min_size=4, max_size=9),
    seed=st.integers(0, 10**6),
    count=st.integers(2, 9),
    inner=st.sampled_from(["none", "loso"]),
)
def test_each_speaker_is_tested_once(takes: list[int], seed: int, count: int, inner: str) -> None:
    samples = [s for name, n in zip("ABCDEFGHI", takes, strict=False) for s in acted(name, takes=n)]
    visual = (store("savee", "visual", filmed(samples), 3), store("folders", "visual", fer()))
    task = Task((store("savee", "acoustic", samples),), visual)
    everybody = who(task, "acoustic", np.arange(len(samples)))
    count = min(count, len(everybody))
    try:
        outer_folds(task.samples("acoustic"), count, seed)
    except DataError as error:  # one speaker has as much as three others
        assert count == 2 and "use --nested loso" in str(error)
        return
    tested: list[tuple[str, str | None]] = []
    for number in range(1, count + 1):
        config = SplitConfig(outer=f"{number}/{count}", split_seed=seed, folds=inner)
        divisions = fold_splits(task, config) if config.has_folds else (split(task, config),)
        if config.has_folds:
            divisions = (*divisions, refit_split(task, config))
        found = [assert_apart(task, division) for division in divisions]
        assert all(one == found[0] for one in found), "folds have one test part"
        tested += found[0]
    assert sorted(tested) == sorted(everybody), "disjoint, and all of them"


def test_the_seed_decides_and_nothing_else() -> None:
    task = task_of(acted("ABCDEFGH"))
    samples = task.samples("acoustic")
    once, again = (outer_folds(samples, 3, 5) for _ in range(2))
    assert once == again
    assert len({str(outer_folds(samples, 3, seed)) for seed in range(6)}) > 1
    assert [len(fold) for fold in outer_folds(samples, None, 0)] == [1] * 8
    sizes = sorted(len(fold) for fold in once)
    assert sizes == [2, 3, 3], "as equal as can be"


def test_outer_folds_have_the_same_inner_ones() -> None:
    """Ten speakers in four leave seven or eight."""
    task = task_of(acted("ABCDEFGHIJ"))
    found = {default_folds(task, SplitConfig(outer=f"{n}/4")).folds for n in range(1, 5)}
    assert found == {"loso"}
    assert "7 speakers are left" in default_folds(task, SplitConfig(outer="4/4")).reason
    assert default_folds(task, SplitConfig(outer="4/5")).folds == "none"


def test_models_of_no_outer_fold_read_as_they_did() -> None:
    assert "outer" not in _split_facts(SplitConfig()) and "folds" not in _split_facts(SplitConfig())
    assert _split_facts(SplitConfig(outer="2/4"))["outer"] == "2/4"


@pytest.mark.parametrize("text", ["5/4", "0/4", "1/1", "2", "2/4/6", "a/b", "loso", "-1/4", ""])
def test_what_an_outer_fold_may_be(text: str) -> None:
    with pytest.raises(ConfigError, match=r"outer = .*: expected none, or I/K such as 2/4"):
        SplitConfig(outer=text)
    assert SplitConfig(outer="02/04").outer == "2/4"
    assert SplitConfig(outer="2/4").has_outer and not SplitConfig().has_outer


def test_outer_folds_that_cannot_be_had() -> None:
    for protocol in ("official", "paper"):
        with pytest.raises(ConfigError, match="use protocol speaker, or outer none"):
            SplitConfig(outer="1/2", protocol=protocol)
    with pytest.raises(ConfigError, match="outer = 1/2 is the test part: leave one of them out"):
        SplitConfig(outer="1/2", test=0.3)
    with pytest.raises(ConfigError, match="nothing is left for training"):
        SplitConfig(outer="1/2", validation=0.5)
    task = task_of(acted("ABCD"))
    with pytest.raises(DataError, match=r"5 outer folds of 4 speakers .*: use at most 4"):
        split(task, SplitConfig(outer="1/5"))
    with pytest.raises(DataError, match=r"2 outer folds of 3 speakers .*: use --nested loso"):
        split(task_of(acted("ABC")), SplitConfig(outer="1/2"))
    with pytest.raises(DataError, match="need at least 3 acoustic speakers, here is 2 speakers"):
        split(task_of(acted("AB")), SplitConfig(outer="1/2"))
    nameless = task_of(fer(8), corpus="folders")
    with pytest.raises(DataError, match="corpus folders names no speakers, and outer folds are by"):
        split(nameless, SplitConfig(outer="1/2"))
    only = task_of([s for s in acted("ABCDE") if s[1] != 2 or s[0] == "CC"])
    with pytest.raises(DataError, match=r"outer fold 3/5 tests CC, and no division of the others"):
        split(only, SplitConfig(outer="3/5"))
    one = task_of([s for s in acted("ABCDE") if s[0] != "CC" or s[1] == 0])
    with pytest.raises(DataError, match=r"outer fold 3/5: acoustic test holds .* of 1 emotions"):
        split(one, SplitConfig(outer="3/5"))
