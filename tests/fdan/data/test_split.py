"""The three protocols: what each promises, over many seeds, and what each refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdan.data.split import Split, SplitConfig, describe, split
from fdan.data.task import Task
from fdan.emotions import EMOTIONS
from fdan.errors import ConfigError, DataError
from tests.tasks import acted, fer, official, store, task_of, who


def acoustic_parts(parts: Split) -> list[np.ndarray]:
    return [parts.acoustic_train, parts.acoustic_validation, parts.acoustic_test]


# --- speaker


@settings(max_examples=40, deadline=None)
@given(
    speakers=st.integers(3, 12),
    seed=st.integers(0, 10**6),
    validation=st.sampled_from([0.1, 0.25, 0.4]),
    test=st.sampled_from([None, 0.1, 0.3]),
)
def test_speaker_parts_are_disjoint(
    speakers: int, seed: int, validation: float, test: float | None
) -> None:
    samples = acted("ABCDEFGHIJKL"[:speakers])
    visual = [store("savee", "visual", samples, 3), store("folders", "visual", fer())]
    task = Task((store("savee", "acoustic", samples),), tuple(visual))
    config = SplitConfig(validation=validation, test=test, split_seed=seed)
    parts = split(task, config)
    train, held_validation, held_test = (
        who(task, "acoustic", part) for part in acoustic_parts(parts)
    )
    assert train and held_validation and held_test
    assert not train & held_validation and not train & held_test
    assert not held_validation & held_test
    # All acoustic samples are used, once.
    together = np.concatenate(acoustic_parts(parts))
    assert sorted(together) == list(range(len(samples)))
    # Faces: those of training speakers and of corpora without speakers, and all of them.
    assert who(task, "visual", parts.visual_train) == train | {("folders", None)}
    assert len(parts.visual_train) == 3 * len(parts.acoustic_train) + 21
    for part in acoustic_parts(parts):
        assert set(task.samples("acoustic").labels[part]) == set(range(7))
    again = split(task, config)
    for name in ("visual_train", "acoustic_train", "acoustic_validation", "acoustic_test"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(again, name))


def test_speaker_fractions_and_seeds() -> None:
    task = task_of(acted("ABCDEFGHIJKL"))
    parts = split(task, SplitConfig())
    assert [len(part) for part in acoustic_parts(parts)] == [168, 84, 84]
    tests = {frozenset(split(task, SplitConfig(split_seed=s)).acoustic_test) for s in range(8)}
    assert len(tests) > 4


def test_speaker_keeps_corpora_apart() -> None:
    """AA of one corpus is not AA of another, and only its own corpus's faces are held out."""
    savee, meld = acted("ABC"), acted("ABC", corpus="meld")
    task = Task(
        (store("savee", "acoustic", savee), store("meld", "acoustic", meld)),
        (
            store("savee", "visual", savee),
            store("ravdess", "visual", acted("ABC", corpus="ravdess")),
        ),
    )
    parts = split(task, SplitConfig())
    assert len(who(task, "acoustic", np.concatenate(acoustic_parts(parts)))) == 6
    kept = who(task, "visual", parts.visual_train)
    assert {("ravdess", name) for name in ("AA", "BB", "CC")} <= kept
    train = who(task, "acoustic", parts.acoustic_train)
    assert {key for key in kept if key[0] == "savee"} == {key for key in train if key[0] == "savee"}


def test_speaker_keeps_every_class_in_training() -> None:
    """Only two of eight speakers have fear: one of them must train."""
    samples = [s for s in acted("ABCDEFGH") if s[1] != 2 or s[0] in ("AA", "BB")]
    task = task_of(samples)
    for seed in range(30):
        parts = split(task, SplitConfig(split_seed=seed))
        assert set(task.samples("acoustic").labels[parts.acoustic_train]) == set(range(7))
    alone = [s for s in acted("ABC", takes=1) if s[1] == {"AA": 0, "BB": 1, "CC": 2}[s[0] or ""]]
    with pytest.raises(DataError, match="no division of the speakers leaves every emotion"):
        split(task_of(alone), SplitConfig())


def test_speaker_refused() -> None:
    with pytest.raises(DataError, match="needs at least 3 acoustic speakers, here is 1"):
        split(task_of(acted("A")), SplitConfig())
    with pytest.raises(DataError, match="at least 3 acoustic speakers, here is 2 "):
        split(task_of(acted("AB")), SplitConfig())
    faces = store("folders", "visual", fer())
    with pytest.raises(DataError, match=r"folders names no speakers.*use --protocol paper$"):
        split(task_of(fer(), faces, corpus="folders"), SplitConfig())
    parts = fer() + fer(part="test")
    with pytest.raises(DataError, match=r"use --protocol paper or official$"):
        split(task_of(parts, faces, corpus="folders"), SplitConfig())
    # All faces are of held-out people.
    only_a = store("savee", "visual", acted("A"))
    refused = 0
    for seed in range(10):
        try:
            split(task_of(acted("ABCD"), only_a), SplitConfig(split_seed=seed))
        except DataError as error:
            assert "no visual sample is left" in str(error)
            refused += 1
    assert 0 < refused < 10


# --- paper


@pytest.mark.parametrize("seed", range(5))
def test_paper_is_eight_to_two_of_each_emotion(seed: int) -> None:
    samples = acted("ABCD", takes=15)  # SAVEE but for its double neutral
    task = task_of(samples)
    parts = split(task, SplitConfig(protocol="paper", split_seed=seed))
    labels = task.samples("acoustic").labels
    for part, count in zip(acoustic_parts(parts), (36, 12, 12), strict=True):
        assert np.bincount(labels[part]).tolist() == [count] * 7
    assert sorted(np.concatenate(acoustic_parts(parts))) == list(range(len(samples)))
    assert len(parts.visual_train) == len(task.samples("visual"))


def test_paper_on_few_samples() -> None:
    task = task_of(fer(3), corpus="folders")
    parts = split(task, SplitConfig(protocol="paper"))
    assert [len(part) for part in acoustic_parts(parts)] == [7, 7, 7]
    with pytest.raises(DataError, match="only 1 anger sample is left for training and validation"):
        split(task_of(fer(2), corpus="folders"), SplitConfig(protocol="paper"))


@pytest.mark.parametrize("protocol", ["paper", "speaker", "official"])
def test_copies_never_lie_on_both_sides(protocol: str) -> None:
    """Each recording stands four times, under two speakers and in two parts."""
    samples = [
        (2 * speaker, emotion, "train" if take < 3 else "test", f"{emotion}{take % 3}{pair}")
        for pair, two in enumerate(("AB", "CD", "EF", "GH"))
        for speaker in two
        for emotion in range(7)
        for take in range(6)
    ]
    unique = [(f"{s}", e, p, f"{s}{e}{p}{n}") for n, (s, e, p, _) in enumerate(samples)]
    task = task_of(samples + unique)
    contents = task.samples("acoustic").contents
    for seed in range(5):
        parts = split(task, SplitConfig(protocol=protocol, split_seed=seed))
        train, validation, test = (
            {contents[index] for index in part} for part in acoustic_parts(parts)
        )
        assert not train & validation and not train & test and not validation & test
        used = sum(len(part) for part in acoustic_parts(parts))
        assert (used < len(contents)) == (protocol != "paper")


# --- official


def test_official_parts_are_the_corpus_own() -> None:
    task = task_of(official())
    parts = split(task, SplitConfig(protocol="official"))
    names = task.samples("acoustic").parts
    for part, name in zip(acoustic_parts(parts), ("train", "validation", "test"), strict=True):
        assert {names[index] for index in part} == {name}
        assert len(part) == names.count(name)
    seen = task.samples("visual").parts
    assert {seen[index] for index in parts.visual_train} == {"train"}
    assert len(parts.visual_train) == seen.count("train")


def test_official_validation_out_of_training() -> None:
    task = task_of(official(validation=False))
    parts = split(task, SplitConfig(protocol="official"))
    held_out = who(task, "acoustic", parts.acoustic_validation)
    assert len(held_out) == 1  # a quarter of four speakers
    assert not held_out & who(task, "acoustic", parts.acoustic_train)
    assert not held_out & who(task, "visual", parts.visual_train)
    # Without speakers: a quarter of each emotion.
    nameless = fer(8) + fer(4, part="test")
    task = task_of(nameless, corpus="folders")
    parts = split(task, SplitConfig(protocol="official"))
    labels = task.samples("acoustic").labels
    assert np.bincount(labels[parts.acoustic_validation]).tolist() == [2] * 7
    assert np.bincount(labels[parts.acoustic_train]).tolist() == [6] * 7
    assert np.bincount(labels[parts.acoustic_test]).tolist() == [4] * 7


def test_official_refused() -> None:
    with pytest.raises(DataError, match=r"corpus savee has no train and test parts.*speaker or"):
        split(task_of(acted("ABC")), SplitConfig(protocol="official"))
    with pytest.raises(DataError, match=r"corpus folders has no train and test.*protocol paper$"):
        split(task_of(fer(), corpus="folders"), SplitConfig(protocol="official"))
    with pytest.raises(DataError, match="no fear sample is left in the training part"):
        split(
            task_of([s for s in official() if s[1] != 2 or s[2] != "train"]),
            SplitConfig(protocol="official"),
        )


# --- configuration and description


def test_configurations() -> None:
    assert SplitConfig().test_fraction == 0.25
    assert SplitConfig(protocol="paper").test_fraction == 0.2
    with pytest.raises(ConfigError, match="nothing is left"):
        SplitConfig(validation=0.5, test=0.5)
    with pytest.raises(ConfigError, match="has a test part of its own"):
        SplitConfig(protocol="official", test=0.2)
    with pytest.raises(ConfigError, match="did you mean 'speaker'"):
        SplitConfig(protocol="speakers")


def test_describe_counts_everything() -> None:
    samples = acted("ABCD")
    visual = store("folders", "visual", fer())
    task = Task((store("savee", "acoustic", samples),), (visual,))
    rows = describe(task, split(task, SplitConfig()))
    assert [row.part for row in rows] == [
        "visual train",
        "acoustic train",
        "acoustic validation",
        "acoustic test",
    ]
    assert rows[0].speakers == {} and rows[0].total == 21
    assert [row.total for row in rows[1:]] == [56, 28, 28]
    assert [len(row.speakers) for row in rows[1:]] == [2, 1, 1]
    for row in rows:
        assert list(row.emotions) == list(EMOTIONS)
        assert sum(row.emotions.values()) == row.total
        assert not row.speakers or sum(row.speakers.values()) == row.total


@pytest.mark.parametrize("protocol", ["speaker", "official", "paper"])
def test_films_of_held_out_speech_stay_out_of_training(protocol: str) -> None:
    """The same films once more in class folders, where nobody knows who is in them."""
    speech = [
        sample
        for part, speakers in (("train", "ABCD"), ("validation", "EF"), ("test", "GH"))
        for sample in acted(speakers, part=part)
    ]
    again = store("folders", "visual", [(None, emotion, None, c) for _, emotion, _, c in speech])
    task = task_of(speech, again)
    parts = split(task, SplitConfig(protocol=protocol))
    spoken, filmed = task.samples("acoustic").contents, task.samples("visual").contents
    held_out = {spoken[i] for i in (*parts.acoustic_validation, *parts.acoustic_test)}
    trained = {filmed[i] for i in parts.visual_train}
    if protocol == "paper":
        assert trained == set(filmed)  # section 3.2: all visual samples
    else:
        assert held_out and trained and not held_out & trained
