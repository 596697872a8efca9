"""What class folders are called in the field, and what is said of those that name no emotion."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdan.corpora.class_names import explain, find_emotion, read_emotion_names
from fdan.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "emotion"),
    [
        ("angry", "anger"),
        ("OAF_angry", "anger"),
        ("YAF_pleasant_surprised", "surprise"),
        ("1_Angry", "anger"),
        ("Actor_03_happy", "happiness"),
        ("AngryFaces", "anger"),
        ("SADNESS-2", "sadness"),
        ("Joy/angry", "anger"),  # a speaker's name above
        ("OAF_happy/angry", "anger"),
        ("angry/Speaker_Joy", None),  # the nearer one names another emotion
        ("happy/OAF_angry", None),
        ("angry/OAF_angry", "anger"),
        ("sad/session1", "sadness"),
        ("calm", None),
        ("unhappy", None),
        ("not_happy", None),
        ("happy_or_sad", None),
        ("suprise", None),
        ("3", None),
    ],
)
def test_names_of_folders(path: str, emotion: str | None) -> None:
    assert find_emotion(path.split("/")[::-1], {}) == emotion


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("suprise", "did you mean 'surprise'?"),
        ("surprized", "did you mean 'surprised'?"),
        ("suprised", "did you mean 'surprised'?"),
        (
            "OAF_hapy/session1",
            "'OAF_hapy' is not one of the seven emotions (did you mean 'happy'?)",
        ),
        ("3", "'3' is a number, and which emotion it stands for is not guessed"),
        ("happy_or_sad", "'happy_or_sad' names happiness and sadness"),
        ("happy/OAF_angry", "'OAF_angry' names anger and 'happy' names happiness"),
        *(
            (name, f"'{name}' says which emotion it is not, and names none")
            for name in ("Not_sad", "not-happy", "NoFear", "unhappy", "fearless", "nonangry")
        ),
        ("not_labelled", "'not_labelled' is not one of the seven emotions"),
        ("contempt", "'contempt' is not one of the seven emotions"),
    ],
)
def test_why_a_folder_names_none(path: str, words: str) -> None:
    why = explain(path.split("/")[::-1], {})
    assert words in why and ("did you mean" in why) == ("did you mean" in words)


def test_names_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "names.toml"
    file.write_bytes(b'\xef\xbb\xbf0 = "angry"\n"in Rage" = "anger"\ncalm = "neutral"\n')
    names = dict(read_emotion_names(file))
    assert names == {"0": "anger", "in Rage": "anger", "calm": "neutral"}
    assert find_emotion(["0"], names) == find_emotion(["in Rage"], names) == "anger"
    assert find_emotion(["calm_happy"], names) == "happiness"
    assert find_emotion(["in Rage", "happy"], names) == "anger"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'0 = "angr"', "0: unknown emotion 'angr': did you mean 'anger'?"),
        (b"0 = 3", "0 = 3: expected one of anger,"),
        (b"0 = anger", "is not a TOML file"),
        (b"\xff\xfe0", "is not a TOML file"),
    ],
)
def test_a_file_of_names_that_is_wrong(text: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "names.toml"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as error:
        read_emotion_names(file)
    assert words in str(error.value) and str(file) in str(error.value)
