"""A study's options as a TOML file: what is written is read back, what is wrong is named."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdan.errors import ConfigError
from search.cli import main as command
from search.cli.main import parse
from search.config.options import (
    _from_sections,
    normalize,
    read_options,
    to_arguments,
    to_toml,
)
from search.config.resume_options import _from_arguments
from search.formatting import format_time, parse_time
from tests.search.cli.test_main import errors

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x00*"), min_size=1
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "study": st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True).filter(
            lambda name: name not in ("data", "stores", "features")
        ),
        "trials": st.integers(1, 10**6),
        "time_budget": st.floats(0.001, 1e7),
        "stop_early": st.just("auto") | st.floats(0, 0.999),
        "nested": st.just("loso") | st.integers(2, 99),
        "folds": st.sampled_from(["auto", "none", "loso"]) | st.integers(2, 99),
        "outer": st.sampled_from(["none", "1/2", "12/99"]),
        "score_again": TEXT,
        "promote": st.booleans(),
        "accept_yardstick_tie": st.booleans(),
        "augment": st.booleans(),
        "gpus_per_trial": st.just("auto") | st.sampled_from([0.0, 0.25, 1.0, 2.0]),
        "acoustic": st.lists(TEXT, min_size=1, max_size=3).map(tuple),
        "runs": TEXT.map(Path),
        "lr": st.floats(1e-30, 1e30),
        "seed": st.integers(0, 2**31),
    },
)


@given(OPTIONS)
def test_a_file_gives_back_the_options_that_it_was_written_from(options: dict[str, Any]) -> None:
    options = normalize(options)
    assert _from_sections(tomllib.loads(to_toml(options)), "it") == options


@given(OPTIONS)
def test_a_recorded_command_line_gives_back_its_options(options: dict[str, Any]) -> None:
    options = normalize(options)
    words = to_arguments(options)
    assert _from_arguments(words, "it") == options
    assert parse(words).options == options


@given(st.floats(0.001, 1e9))
def test_a_time_is_read_back(seconds: float) -> None:
    assert parse_time(format_time(seconds)) == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[study]\ntrails = 4", "[study]: unknown key 'trails': did you mean 'trials'?"),
        ("[stady]\ntrials = 4", "unknown section 'stady': did you mean 'study'?"),
        ("trials = 4", "unknown section 'trials'"),
        ("study = 4", "study = 4: expected a table [study]"),
        ("[study]\ntrials = 0", "[study]: trials = 0: must be at least 1"),
        ("[study]\ntrials = '4'", "[study]: trials = '4': expected a whole number"),
        ("[study]\ntime-budget = 'soon'", "expected a time such as 90s, 30m or 2h"),
        ("[model]\nbackbone = 'resnet19'", "did you mean 'resnet18'"),
        ("[training]\nlr = -1", "[training]: lr = -1.0: must be greater than 0"),
        ("trials", "is not a TOML file"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(text)
    line = errors(capsys, "--config", str(file), "--runs", str(tmp_path / "runs"))
    assert words in line and "study.toml" in line
    with pytest.raises(ConfigError):
        read_options(file)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in errors(capsys, "--config", str(tmp_path / "study.toml"))


def test_print_config_prints_what_the_command_line_says_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, file = tmp_path / "runs", tmp_path / "study.toml"
    flags = ["--runs", str(runs), "--trials", "7", "--time-budget", "90m", "--lr", "0.02"]
    assert command.main([*flags, "--no-augment", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert not runs.exists()
    file.write_text(printed)
    again = ["--config", str(file)]
    assert command.main([*again, "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    assert parse(again).options == parse([*flags, "--no-augment"]).options
    # A flag wins over the file.
    assert parse([*again, "--trials", "9"]).options["trials"] == 9


def test_a_password_is_not_printed_and_has_to_be_given_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, file = ["--tracking-uri", "http://u:secret@127.0.0.1:9"], tmp_path / "study.toml"
    assert command.main(["--runs", str(tmp_path / "runs"), *secret, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "secret" not in printed
    file.write_text(printed)
    assert "had a password" in errors(capsys, "--config", str(file), "--dry-run")
    assert command.main(["--config", str(file), *secret, "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_a_file_name_that_is_no_utf_8_ends_nothing(tmp_path: Path) -> None:
    text = to_toml(normalize({"acoustic": ("folders:/data/\udce9",)}))
    assert tomllib.loads(text)["data"]["acoustic"] == ["folders:/data/?"]


def test_a_server_of_the_environment_is_no_password_that_the_file_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.toml"
    file.write_text('[study]\ntracking_uri = "http://me:***@127.0.0.1:9"\n')
    with pytest.raises(ConfigError, match="had a password"):
        parse(["--config", str(file)])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert "tracking_uri" not in parse(["--config", str(file)]).options
