"""A study remembers the options of its newest start: its name alone continues it.

What is given now replaces what is remembered; where the two make another study, it is refused like
any other (search/study/open.py).
"""

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NoReturn

from fdan.cli.arguments import Parser, add_flags
from fdan.data.open_task import DataConfig
from fdan.errors import ConfigError
from fdan.files import read_text
from search.config.options import SECTIONS, normalize
from search.optimizer.space_file import shipped_spaces
from search.study.folder import RUNS, moved_text, read_arguments, read_study_file
from tracking.uri import TRACKING_URI_VARIABLE, is_masked

_DATA: Final = frozenset(("task", "acoustic", "visual"))
_NO_FILES: Final = frozenset((*shipped_spaces(), "imagenet", "none"))
WRITTEN: Final = "# Written by the study itself, at its end.\n"
"""First line of the file that a study writes into its folder."""

ONCE: Final = frozenset(("score_again",))
"""Options that hold for one start alone: neither remembered nor written for another study."""


def remembered_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are left out here and that the study named by `study` remembers. ConfigError
    where one of them had a password, which is not stored."""
    name = options.get("study")
    if name is None:
        return {}
    folder = DataConfig(**DataConfig.pick(options)).runs / name
    # Its folder is where it was found, whatever it was called when the study was started.
    given = options.keys() | ONCE | {"runs"}
    if given & _DATA:
        given |= {*_DATA, "emotions"}
    if "gpus_per_trial" in given:
        given |= {"device"}
    remembered = _from_arguments(read_arguments(folder) or (), str(folder / "study.json"))
    left_out = {key: value for key, value in remembered.items() if key not in given}
    return without_masked(left_out, f"study '{name}': its ")


def absolute_places(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a study remembers them: files and folders mean the same in any working folder.
    Names of what is no file, such as a space that comes with the project, stay."""

    def absolute(name: str, text: str) -> str:
        corpus, colon, place = text.partition(":") if name in _DATA else ("", "", text)
        if not place.strip() or (name not in _DATA and not Path(place).expanduser().exists()):
            return text
        return f"{corpus}{colon}{Path(place.strip()).expanduser().absolute()}"

    found = dict(options)
    for name in (*_DATA, "space", "weights", "shared", "emotions", "runs"):
        value = found.get(name)
        if isinstance(value, tuple):
            found[name] = tuple(absolute(name, text) for text in value)
        elif isinstance(value, Path):
            found[name] = value.expanduser().absolute()
        elif value is not None and value not in _NO_FILES:
            found[name] = absolute(name, value)
    return found


def moved_options(options: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The options of a file that a study wrote into its folder (study.toml), with the places that
    the folder's files have now. A copy of such a file that lies elsewhere, out of MLflow say, makes
    no runs folder at a place where there is none any more. Any other file's as they are.

    Args:
        options: Options that the file gives.
        file: The file.
    """
    folder = file.absolute().parent
    recorded = read_study_file(folder) if file.name == "study.toml" else None
    if recorded is None:
        gone = "runs" in options and not Path(options["runs"]).is_dir()
        if gone and read_text(file).startswith(WRITTEN):
            return {name: value for name, value in options.items() if name != "runs"}
        return dict(options)
    # The file is written at a study's end, study.json at each start.
    recorded = {**recorded, RUNS: str(options.get("runs", recorded.get(RUNS)))}
    moved: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, tuple):
            moved[name] = tuple(moved_text(text, recorded, folder) for text in value)
        elif isinstance(value, str | Path):
            moved[name] = type(value)(moved_text(str(value), recorded, folder))
        else:
            moved[name] = value
    return moved


class _RecordedArguments(Parser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _from_arguments(words: Sequence[str], where: str) -> dict[str, Any]:
    """The options that a recorded command line gives, the inverse of `to_arguments`."""
    parser = _RecordedArguments(prog=where)
    for config in chain(*SECTIONS.values()):
        add_flags(parser, config)
    return normalize(vars(parser.parse_args(words)), where)


def without_masked(options: Mapping[str, Any], whose: str = "") -> dict[str, Any]:
    """The options without a server whose password was masked and which the environment names again.
    ConfigError where another option had a password.

    Args:
        options: Options that were recorded.
        whose: Beginning of the error message.
    """
    remaining = {}
    for name, value in options.items():
        if not isinstance(value, str) or not is_masked(value):
            remaining[name] = value
        # That variable is where the server came from, or gives it again.
        elif name != "tracking_uri" or not os.environ.get(TRACKING_URI_VARIABLE):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{whose}{flag} had a password, which is not stored: give it again")
    return remaining


def new_study_note(options: Mapping[str, Any]) -> str:
    """A line for a study that does not exist yet and was given a name alone, which may be
    misspelt; empty for any other."""
    name = options.get("study")
    if name is None or options.keys() & _DATA:
        return ""
    runs = DataConfig(**DataConfig.pick(options)).runs
    if read_arguments(runs / name) is not None:
        return ""
    return f"there is no study '{name}' in {runs}: this begins a new one, on the demo corpus"
