"""Folds by speaker: what they promise over many corpora and seeds, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdan.data.folds import default_folds, fold_splits, validation_speakers
from fdan.data.split import Split, SplitConfig, split
from fdan.data.task import Task
from fdan.errors import ConfigError, DataError
from tests.tasks import acted, fer, official, store, task_of, who


def assert_folds(task: Task, config: SplitConfig) -> tuple[Split, ...]:
    """All that any folds promise; returns them."""
    folds = fold_splits(task, config)
    acoustic, visual = task.samples("acoustic"), task.samples("visual")
    single = split(task, replace(config, folds="none"))
    validated: list[int] = []
    for fold in folds:
        np.testing.assert_array_equal(fold.acoustic_test, single.acoustic_test)
        train = who(task, "acoustic", fold.acoustic_train)
        validation = who(task, "acoustic", fold.acoustic_validation)
        assert train and validation and not train & validation
        assert set(acoustic.labels[fold.acoustic_train]) == set(acoustic.labels)
        heard = {acoustic.contents[i] for i in fold.acoustic_train}
        held = {
            acoustic.contents[i] for i in (*fold.acoustic_validation, *fold.acoustic_test.tolist())
        }
        assert not heard & held
        assert not validation & who(task, "visual", fold.visual_train)
        assert not held & {visual.contents[i] for i in fold.visual_train}
        validated += fold.acoustic_validation.tolist()
    tested = {acoustic.contents[i] for i in single.acoustic_test}
    rest = [i for i, content in enumerate(acoustic.contents) if content not in tested]
    assert sorted(validated) == rest  # each sample once
    return folds


def filmed(samples: list) -> list:
    """The same speakers in other films."""
    return [(speaker, emotion, part, f"film of {c}") for speaker, emotion, part, c in samples]


@settings(max_examples=60, deadline=None)
@given(
    takes=st.lists(st.integers(1, 5), min_size=5, max_size=12),
    seed=st.integers(0, 10**6),
    folds=st.sampled_from([2, 3, "loso"]),
)
def test_each_speaker_validates_once(takes: list[int], seed: int, folds: int | str) -> None:
    speakers = "ABCDEFGHIJKL"
    samples = [s for name, n in zip(speakers, takes, strict=False) for s in acted(name, takes=n)]
    visual = (store("savee", "visual", filmed(samples), 3), store("folders", "visual", fer()))
    task = Task((store("savee", "acoustic", samples),), visual)
    config = SplitConfig(folds=folds, split_seed=seed)
    rest = split(task, replace(config, folds="none"))
    left = who(task, "acoustic", np.concatenate([rest.acoustic_train, rest.acoustic_validation]))
    if isinstance(folds, int) and len(left) < folds:
        with pytest.raises(DataError, match="left for training and validation"):
            fold_splits(task, config)
        return
    made = assert_folds(task, config)
    if folds == "loso":
        assert all(len(validation_speakers(task, fold)) == 1 for fold in made)
    else:
        assert len(made) == folds
    tested = who(task, "acoustic", made[0].acoustic_test)
    for fold in made:
        assert not tested & who(task, "visual", fold.visual_train)
    for one, other in zip(made, fold_splits(task, config), strict=True):
        for part in ("visual_train", "acoustic_train", "acoustic_validation"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_folds_are_balanced() -> None:
    """In size, and in an emotion that only some speakers have."""
    samples = [s for s in acted("ABCDEFGH") if s[1] != 2 or s[0] in ("AA", "BB", "CC", "DD")]
    task = task_of(samples)
    labels = task.samples("acoustic").labels
    for seed in range(10):
        config = SplitConfig(test=0.1, split_seed=seed, folds=2)
        counts = [np.bincount(labels[f.acoustic_validation]) for f in assert_folds(task, config)]
        assert max(count[2] for count in counts) == 8  # two of the three or four that have it
        sizes = [count.sum() for count in counts]
        assert max(sizes) - min(sizes) <= 28  # seven speakers: one more in one of them


def test_a_speaker_with_much_speech_has_few_beside_it() -> None:
    spoken = [acted("ABCDEF", takes=2, part="train"), acted("G", takes=10, part="train")]
    task = task_of([*spoken[0], *spoken[1], *acted("H", part="test")])
    folds = assert_folds(task, SplitConfig(protocol="official", folds=2))
    assert sorted(len(fold.acoustic_validation) for fold in folds) == [70, 84]


def test_the_seed_decides() -> None:
    task = task_of(acted("ABCDEFGHI", part="train") + acted("J", part="test"))
    folds = {
        frozenset(
            frozenset(validation_speakers(task, fold))
            for fold in fold_splits(
                task, SplitConfig(protocol="official", folds=3, split_seed=seed)
            )
        )
        for seed in range(6)
    }
    assert len(folds) == 6


def test_copies_under_several_speakers_never_lie_on_both_sides() -> None:
    samples = [
        (2 * speaker, emotion, None, f"{emotion}{take}{pair}")
        for pair, two in enumerate(("AB", "CD", "EF", "GH"))
        for speaker in two
        for emotion in range(7)
        for take in range(3)
    ]
    own = [(s, e, p, f"{s}{e}{n}") for n, (s, e, p, _) in enumerate(samples)]
    task = task_of(samples + own)
    for seed in range(5):
        for folds in (3, "loso"):
            assert_folds(task, SplitConfig(folds=folds, split_seed=seed))


def test_an_official_test_part_stays_and_the_rest_is_divided() -> None:
    faces = store("savee", "visual", filmed(official()), 3)
    task = task_of(official(), faces)
    folds = assert_folds(task, SplitConfig(protocol="official", folds="loso"))
    assert [validation_speakers(task, fold) for fold in folds] == [
        [n] for n in ("AA", "BB", "CC", "DD", "FF")
    ]
    parts = task.samples("visual").parts
    for fold in folds:
        assert {parts[i] for i in fold.visual_train} == {"train", "validation"}


def test_folds_that_cannot_be_had() -> None:
    task = task_of(acted("ABCDE"))
    with pytest.raises(
        DataError, match=r"folds = 9: 4 speakers \(.*\) left .*: use folds at most 4, loso or none"
    ):
        fold_splits(task, SplitConfig(folds=9))
    nameless = fer(8) + fer(4, part="test")
    with pytest.raises(DataError, match="corpus folders names none: use folds none"):
        fold_splits(task_of(nameless, corpus="folders"), SplitConfig(protocol="official", folds=2))
    for folds in (2, "loso"):
        with pytest.raises(
            ConfigError, match=rf"folds = {folds}: .* protocol speaker, or folds none"
        ):
            SplitConfig(protocol="paper", folds=folds)
    only = task_of([s for s in acted("ABCDE") if s[1] != 2 or s[0] == "CC"])
    with pytest.raises(DataError, match="leaves no fear sample for training: use folds none, or"):
        fold_splits(only, SplitConfig(folds="loso", split_seed=_seed_that_tests(only, "DD")))
    one = task_of([s for s in acted("ABCDE") if s[0] != "CC" or s[1] == 0])
    with pytest.raises(DataError, match=r"CC.* validates on 1 emotion, at least 2 are needed"):
        fold_splits(one, SplitConfig(folds="loso", split_seed=_seed_that_tests(one, "DD")))
    faces = store("savee", "visual", acted("A"))
    with pytest.raises(DataError, match=r"speakers AA\) leaves no visual sample for training"):
        blind = task_of(acted("ABCDE"), faces)
        seed = _seed_that_tests(blind, "DD")
        fold_splits(blind, SplitConfig(folds="loso", split_seed=seed))


def _seed_that_tests(task: Task, name: str) -> int:
    for seed in range(100):
        try:
            parts = split(task, SplitConfig(split_seed=seed))
        except DataError:
            continue
        if who(task, "acoustic", parts.acoustic_test) == {("savee", name)}:
            return seed
    raise AssertionError(name)


@pytest.mark.parametrize("text", ["1", "0", "-2", "all", "2.5", ""])
def test_what_folds_may_be(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected auto, none, loso .* or a whole number from 2"):
        SplitConfig(folds=text)
    assert SplitConfig(folds="5").folds == SplitConfig(folds=5).folds == 5
    assert SplitConfig(folds="loso").has_folds and not SplitConfig(folds="none").has_folds
    assert SplitConfig().folds == "auto" and not SplitConfig().has_folds, "not decided yet"


def test_folds_where_few_speakers_are_left() -> None:
    few, many = task_of(acted("ABCDEF")), task_of(acted("ABCDEFGHIJKL"))
    assert default_folds(few, SplitConfig()).folds == "loso"
    assert "5 speakers are left" in default_folds(few, SplitConfig()).reason
    assert default_folds(many, SplitConfig()).folds == "none"
    assert "9 speakers are left" in default_folds(many, SplitConfig()).reason
    assert default_folds(few, SplitConfig(protocol="paper")).folds == "none"
    only = task_of([s for s in acted("ABCDE") if s[1] != 2 or s[0] == "CC"])
    config = SplitConfig(split_seed=_seed_that_tests(only, "DD"))
    found = default_folds(only, config)
    assert found.folds == "none" and "no fear sample" in found.reason
