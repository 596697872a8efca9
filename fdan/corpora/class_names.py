"""What folders and tables call the seven emotions: a word in a name, or one that the user maps."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from fdan.emotions import EMOTIONS, WORDS, from_name
from fdan.errors import ConfigError, unknown
from fdan.files import read_text

_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # parts of OAF_angry, of AngryFaces
_NEGATIONS: Final = frozenset(("no", "non", "not", "without"))
_DENIED: Final = re.compile(r"(?:un|non|not)([a-z]+)|([a-z]+)less")
_SIMILAR: Final = 0.8  # difflib's ratio from which a word is taken for a misspelt one


def find_emotion(names: Iterable[str], mapped: Mapping[str, str]) -> str | None:
    """The emotion that a file's folders name: the nearest that is an emotion's word, or mapped;
    else the nearest that holds one. None where none does, or where a nearer one holds another
    emotion's word. A name that holds words of two emotions names none.

    Args:
        names: Names of the folders, the nearest first.
        mapped: Emotions of the user's own names.

    >>> find_emotion(["OAF_angry"], {}), find_emotion(["sad_or_happy"], {})
    ('anger', None)
    >>> find_emotion(["OAF_angry", "happy"], {}), find_emotion(["angry", "OAF_happy"], {})
    (None, 'anger')
    """
    emotions = {emotion for _, emotion in _named(list(names), mapped)}
    return emotions.pop() if len(emotions) == 1 else None


def explain(names: Iterable[str], mapped: Mapping[str, str]) -> str:
    """Why folders name no emotion, by the name that comes nearest to one.

    Args:
        names: Names of the folders, the nearest first; at least one.
        mapped: Emotions of the user's own names.
    """
    names = list(names)
    if named := _named(names, mapped):
        return " and ".join(f"'{name}' names {emotion}" for name, emotion in named)
    for name in names:
        if _denies(name):
            return f"'{name}' says which emotion it is not, and names none"
        if len(found := _emotions_in(name)) > 1:
            return f"'{name}' names {' and '.join(found)}"
        for word in _words(name):
            if near := difflib.get_close_matches(word, WORDS, n=1, cutoff=_SIMILAR):
                return f"'{name}' is not one of the seven emotions (did you mean '{near[0]}'?)"
    for name in names:
        if name.strip().isdigit():
            return f"'{name}' is a number, and which emotion it stands for is not guessed"
    return f"'{names[0]}' is not one of the seven emotions"


def read_emotion_names(file: Path) -> tuple[tuple[str, str], ...]:
    """The names in a TOML file such as `0 = "anger"`, each with its emotion. ConfigError: it cannot
    be read, or maps a name to none of the seven."""
    try:
        data = tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"--emotions {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--emotions {file}: is not a TOML file: {error}") from None
    for name, emotion in data.items():
        if not isinstance(emotion, str):
            raise ConfigError(
                f"--emotions {file}: {name} = {emotion!r}: expected one of {', '.join(EMOTIONS)}"
            )
        if from_name(emotion) is None:
            raise ConfigError(f"--emotions {file}: {name}: {unknown('emotion', emotion, EMOTIONS)}")
    return tuple((name.strip(), str(from_name(emotion))) for name, emotion in data.items())


def _named(names: Sequence[str], mapped: Mapping[str, str]) -> list[tuple[str, str]]:
    """The nearest name that is an emotion's word, or mapped, with its emotion, and before it a
    nearer one that holds the word of another emotion."""
    near: list[tuple[str, str]] = []
    for name in names:
        if emotion := mapped.get(name.strip()) or from_name(name):
            return [*(pair for pair in near if pair[1] != emotion), (name, emotion)]
        if not near and len(found := _emotions_in(name)) == 1:
            near.append((name, found[0]))
    return near


def _emotions_in(name: str) -> list[str]:
    """The emotions of which a name holds a word, in the order of the words."""
    words = _words(name)
    found = [from_name(word) for word in words if _NEGATIONS.isdisjoint(words)]
    return list(dict.fromkeys(emotion for emotion in found if emotion))


def _denies(name: str) -> bool:
    """Whether a name says that something is not of an emotion: `not_sad`, `unhappy`, `fearless`."""
    words = _words(name)
    if not _NEGATIONS.isdisjoint(words) and any(from_name(word) for word in words):
        return True
    parts = (match for word in words if (match := _DENIED.fullmatch(word)))
    return any(from_name(match[1] or match[2]) for match in parts)


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]
