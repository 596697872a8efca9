"""The options of a study by name: from flags, from Python, or from the TOML file that
`search/run.py --config` reads and `--print-config` writes.

An option has one name, check and unit. One that is not given stays absent, so that its default can
depend on the data and the machine. A new option is a field below: flag, TOML key and check follow.
Switches of the command itself, such as `--dry-run`, are in search/cli/main.py, options for one
start alone in search/config/resume_options.py, those of model and training in fdan/run_config.py.
"""

import contextlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdan.config import Above, Config, option
from fdan.data.open_task import DataConfig
from fdan.data.settings import DATA_CONFIGS
from fdan.data.split import LOSO
from fdan.errors import ConfigError, unknown
from fdan.files import read_text
from fdan.run_config import RUN_CONFIGS
from search.formatting import format_time, parse_time
from search.optimizer.pruners import PRUNERS
from search.optimizer.samplers import SAMPLERS
from search.optimizer.space_file import shipped_spaces
from search.study.storage import check_storage_url
from tracking.uri import mask_password

AUTO: Final = "auto"

# Names in --runs that no study can have.
_RESERVED: Final = ("data", "stores", "features", "mlflow.db", "mlartifacts", ".", "..")


def _auto_or_number(text: str, allowed: Callable[[float], bool], expected: str) -> float | str:
    if text == AUTO:
        return text
    with contextlib.suppress(ValueError):
        if allowed(number := float(text)):
            return number
    raise ValueError(f"expected auto, {expected}")


def _parse_noise(text: str) -> float | str:
    return _auto_or_number(text, lambda noise: 0 <= noise < 1, "or a part of 1 such as 0.02")


def _parse_share(text: str) -> float | str:
    expected = "0, a part of a GPU such as 0.5, or 1"
    return _auto_or_number(text, lambda x: 0 <= x < 1 or (x >= 1 and x.is_integer()), expected)


def _parse_nested(text: str) -> int | str:
    if text == LOSO:
        return text
    with contextlib.suppress(ValueError):
        if (number := int(text)) >= 2:
            return number
    raise ValueError("expected loso (one outer fold for each speaker) or a whole number from 2")


@dataclass(frozen=True)
class StudyConfig(Config):
    """A study's name, its length and where its records go."""

    study: str | None = option(
        None,
        "its name; the name of an earlier study alone continues that one",
        "NAME",
        default_text="from the data",
    )
    trials: int = option(20, "trials in all, those of earlier starts included", "INT", low=1)
    time_budget: float | None = option(
        None,
        "stop searching after this long, as in 90s, 30m, 2h, 1h30m;\npreparing is not counted",
        "TIME",
        parse=parse_time,
        low=Above(0.0),
    )
    stop_early: float | str | None = option(
        None,
        "end the search once its next 10 trials are expected to raise the best value by less\n"
        "than NOISE, by which the seed alone moves a value (0.02, say; 0: never); auto: as\n"
        "measured by the study's confirming runs, else by how the values' last epochs fluctuate,\n"
        "which is less than what the seed does, so that it stops late rather than early",
        "NOISE|auto",
        default_text="never",
        parse=_parse_noise,
    )
    nested: int | str | None = option(
        None,
        "K outer folds of all speakers, loso: one for each of them. Each is tested by a search\n"
        "of its own, which never hears it; the result is that of all their tests. Slow, and for\n"
        "a corpus of few speakers the only figure to trust",
        "K|loso",
        default_text="one search",
        parse=_parse_nested,
    )
    storage: str | None = option(
        None,
        "Optuna's storage: sqlite:///FILE or postgresql://USER@HOST/DB",
        "URL",
        default_text="a journal file in the study's folder",
    )
    tracking_uri: str | None = option(
        None,
        "MLflow: sqlite:///FILE or http://HOST:PORT",
        "URI",
        default_text="MLFLOW_TRACKING_URI if it is set, else sqlite, RUNS/mlflow.db",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.study is not None and not re.fullmatch(r"[\w.-]+", self.study):
            raise ConfigError(
                f"--study '{self.study}': it names a folder, so letters, digits, '.', '_' and '-'"
            )
        if self.study in _RESERVED:
            raise ConfigError(f"--study {self.study}: that name in --runs has another use")
        if self.storage is not None:
            check_storage_url(self.storage)


@dataclass(frozen=True)
class ConfirmConfig(Config):
    """What follows the search: fresh seeds, the test part, promotion."""

    confirm: int | None = option(
        None,
        "after the search, run the K best settings again with fresh seeds; the best mean is\n"
        "the winner. Settings that cannot win any more get no further seeds",
        "K",
        default_text="3 with --promote, else none",
        low=1,
    )
    seeds: int = option(
        3,
        "fresh seeds of each setting that is confirmed, at most; two at least before a setting\n"
        "is given up, so that nothing is saved with one or two",
        "R",
        low=1,
    )
    score_test: bool = option(
        False,
        "score the winner on the test part at the end; once per study: a second time shows\n"
        "the first figure again",
        "",
    )
    score_again: str | None = option(
        None,
        "score another winner than the one that was scored, for a reason in words, which is\n"
        "stored with the score",
        "REASON",
        default_text="never",
    )
    promote: bool = option(
        False,
        "confirm, score on the test part, and make the winner the registry's champion if it\n"
        "is better than the present one",
        "",
    )
    accept_yardstick_tie: bool = option(
        False,
        "with --promote, accept a winner that is not distinguishable from a yardstick, such as\n"
        "logistic regression, on the test part; the registry keeps that it was accepted",
        "",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score_again is not None and not self.score_again.strip():
            raise ConfigError(
                "--score-again: it is empty: say in words why the test part is asked again"
            )

    @property
    def count(self) -> int:
        """Settings to run again after the search."""
        return self.confirm if self.confirm is not None else 3 if self.promote else 0

    @property
    def runs(self) -> int:
        """Confirming runs, at most."""
        return self.count * self.seeds

    @property
    def scores_test(self) -> bool:
        """Whether the winner is scored on the test part."""
        return self.score_test or self.promote or self.score_again is not None


@dataclass(frozen=True)
class SearchConfig(Config):
    """What proposes trials, what prunes them, and what they search."""

    sampler: str = option("tpe", "what proposes trials", "NAME")
    pruner: str = option("hyperband", "what ends trials early", "NAME")
    space: str = option("default", f"{', '.join(shipped_spaces())}, or a TOML file", "NAME|FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if (name := getattr(self, kind)) not in known:
                raise ConfigError(f"--{kind}: {unknown(kind, name, known)}")


@dataclass(frozen=True)
class ResourceConfig(Config):
    """Cluster and resources that trials run on."""

    concurrent: int | None = option(
        None,
        "trials at once; for a cluster that grows with what waits,\nas many as it may grow to",
        "INT",
        default_text="as many as fit",
        low=1,
    )
    cpus_per_trial: int = option(1, "CPU cores, and threads, of a trial", "INT", low=1)
    gpus_per_trial: float | str | None = option(
        None,
        "GPUs of a trial; 0.5: two share one; auto: a share that fits as many as possible,\n"
        "found out by a short training",
        "NUMBER",
        default_text="1 if there is a GPU, else 0",
        parse=_parse_share,
    )
    group: int = option(
        1,
        "with frozen backbones, a worker trains up to K trials of one shape as one, each to\n"
        "the next epoch at which the pruner compares; on a GPU, K steps then take the time of\n"
        "few",
        "K",
        low=1,
    )
    epoch_timeout: float = option(
        3600.0,
        "an epoch that takes longer hangs: its worker is killed and the trial continues in\n"
        "another one from its newest checkpoint",
        "TIME",
        default_text="1h",
        parse=parse_time,
        low=Above(0.0),
    )
    address: str | None = option(
        None,
        "Ray cluster to run on, from one of its nodes: auto or HOST:PORT",
        "ADDRESS",
        default_text="RAY_ADDRESS if it is set, else a Ray of its own on this machine",
    )
    shared: Path | None = option(
        None,
        "on a cluster, a folder that all nodes see: checkpoints lie in it, and each node\n"
        "copies the data from it once",
        "FOLDER",
        default_text="FDAN_SHARED if it is set, else all see RUNS",
    )
    device: str = option(
        "auto",
        "auto, cpu, cuda, cuda:0 ...",
        "NAME",
        default_text="auto, the GPU if there is one",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus_per_trial not in (None, AUTO, 0.0) and self.device == "cpu":
            raise ConfigError(f"--gpus-per-trial {self.gpus_per_trial:g} contradicts --device cpu")


SECTIONS: Final[Mapping[str, tuple[type[Config], ...]]] = {
    "study": (StudyConfig,),
    "confirm": (ConfirmConfig,),
    "search": (SearchConfig,),
    "resources": (ResourceConfig,),
    "data": (DataConfig,),
    "preparation": DATA_CONFIGS[:2],
    "split": DATA_CONFIGS[2:],
    "model": RUN_CONFIGS[:1],
    "kernel": RUN_CONFIGS[1:2],
    "training": RUN_CONFIGS[2:],
}
"""A study's options, grouped as a TOML file has them."""


def normalize(options: Mapping[str, Any], where: str = "options") -> dict[str, Any]:
    """The same options, each checked by itself, with values of their types. ConfigError where a
    name is unknown (the nearest is named) or a value is refused.

    Args:
        options: Values by name; None, as a name that is left out, is not given.
        where: Beginning of error messages.
    """
    for name in options:
        if name not in _OWNERS:
            raise ConfigError(f"{where}: {unknown('option', name, _OWNERS)}")
    given = {name: value for name, value in options.items() if value is not None}
    return {name: _OWNERS[name].check(name, value) for name, value in given.items()}


def _plain(name: str, value: Any) -> Any:
    """An option's value as JSON and TOML have it, without a password."""
    parse = _OWNERS[name].__dataclass_fields__[name].metadata.get("parse")
    if parse is parse_time and isinstance(value, float):
        return format_time(value)
    if isinstance(value, tuple):
        return list(value)
    return mask_password(str(value)) if isinstance(value, str | Path) else value


def to_arguments(options: Mapping[str, Any]) -> list[str]:
    """The command line that gives these options, without passwords.

    >>> to_arguments({"lr": 0.1, "augment": False, "time_budget": 90.0})
    ['--lr', '0.1', '--no-augment', '--time-budget', '1m30s']
    """
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
            continue
        for item in value if isinstance(value, tuple) else (value,):
            text = str(_plain(name, item))
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def sections(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plain values by section, as a TOML file and study.json have them."""
    tables = {
        section: {n: _plain(n, v) for n, v in options.items() if _OWNERS[n] in configs}
        for section, configs in SECTIONS.items()
    }
    return {section: table for section, table in tables.items() if table}


def read_options(file: Path) -> dict[str, Any]:
    """The options that a file gives. ConfigError where it cannot be read, or has an unknown key
    (the nearest known one is named) or a value that is refused."""
    try:
        data = tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"--config {file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"--config {file}: is not a TOML file: {error}") from None
    return _from_sections(data, str(file))


def _from_sections(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for section, table in data.items():
        if section not in SECTIONS:
            raise ConfigError(f"{where}: {unknown('section', section, SECTIONS)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{where}: {section} = {table!r}: expected a table [{section}]")
        known = [name for config in SECTIONS[section] for name in config.__dataclass_fields__]
        given = {key.replace("-", "_"): value for key, value in table.items()}
        try:
            for key in table:
                if key.replace("-", "_") not in known:
                    raise ConfigError(unknown("key", key, known))
            options |= normalize(given)
        except ConfigError as error:
            raise ConfigError(f"{where}: [{section}]: {error}") from None
    return options


def to_toml(options: Mapping[str, Any]) -> str:
    """The text of the file that gives these options. Passwords are masked."""
    lines = ["# python search/run.py --config FILE runs this study; flags win over the file."]
    for section, table in sections(options).items():
        lines += ["", f"[{section}]"]
        for key, value in table.items():
            # JSON's literals are TOML's, but for one character that TOML wants escaped.
            literal = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{key} = {literal}")
    # TOML is UTF-8: what is not, a file's name out of an old archive say, ends no study.
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode()


_OWNERS: Final[Mapping[str, type[Config]]] = {
    name: config
    for configs in SECTIONS.values()
    for config in configs
    for name in config.__dataclass_fields__
}
