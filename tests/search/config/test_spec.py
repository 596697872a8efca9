"""A study's spec from Python: the options of the command line, and what they come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdan.errors import ConfigError
from search.cli.main import parse
from search.config.options import to_arguments
from search.config.spec import StudySpec, resolve
from search.study.folder import write_begun


def test_python_and_the_command_line_make_the_same_spec(tmp_path: Path) -> None:
    flags = ["--runs", str(tmp_path), "--trials", "3", "--epochs", "4", "--time-budget", "2h"]
    made = StudySpec.make(runs=tmp_path, trials=3, epochs=4, time_budget="2h")
    assert made == resolve(parse(flags).options)
    assert made.arguments == flags
    assert (made.trials, made.epochs, made.study.time_budget) == (3, 4, 7200.0)


def test_an_option_that_is_unknown_or_refused_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown option 'trails': did you mean 'trials'"):
        StudySpec.make(trails=3)
    with pytest.raises(ConfigError, match="trials = 0: must be at least 1"):
        StudySpec.make(trials=0)


def test_a_name_alone_continues_as_the_study_was_started(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    write_begun(tmp_path / "s", ["--trials", "7", "--lr", "0.02"])
    spec = StudySpec.make(study="s", runs=tmp_path, trials=9)
    assert (spec.trials, spec.fixed["lr"]) == (9, 0.02)
    assert spec.remembered == ("--lr", "0.02")


def test_resolving_reads_the_environment_that_it_is_given(tmp_path: Path) -> None:
    options = parse(["--runs", str(tmp_path)]).options
    environment = {"RAY_ADDRESS": "10.0.0.1:6379", "FDAN_SHARED": str(tmp_path)}
    spec = resolve(options, environment=environment)
    assert (spec.cluster, spec.shared) == ("10.0.0.1:6379", tmp_path)
    assert spec.device_is_open and spec.device == "cpu", "no cluster was asked"
    decided = resolve({**options, "device": "cuda"}, environment=environment)
    assert not decided.device_is_open and decided.device == "cuda"
    assert to_arguments(decided.options)[-2:] == ["--device", "cuda"]
    alone = resolve(options, environment={})
    assert (alone.cluster, alone.shared) == (None, None)


@pytest.mark.parametrize("name", ["time_budget", "epoch_timeout"])
@pytest.mark.parametrize("value", [0, -5, 0.0])
def test_a_time_is_more_than_nothing(name: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} = .*: must be greater than 0"):
        StudySpec.make(runs=tmp_path, **{name: value})


def test_a_reason_to_score_again_holds_for_one_start(tmp_path: Path) -> None:
    spec = StudySpec.make(runs=tmp_path, score_again="the first was a trial run", trials=3)
    assert spec.options["score_again"] and spec.lasting_options["trials"] == 3
    assert "score_again" not in spec.lasting_options
