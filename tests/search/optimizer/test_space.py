"""Spaces as data: shipped ones, conditions, pinned settings, grids, what is wrong with a file."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import FixedTrial

from fdan.errors import ConfigError
from fdan.run_config import RunConfig
from search.optimizer.space_file import load_space, parse_space, shipped_spaces
from tests.search.conftest import DISCRETE, KNOWN, SPACE


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_draw_valid_configurations(name: str) -> None:
    settings = RunConfig().as_dict()
    found = load_space(name, settings)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for point in found.enqueue:
        study.enqueue_trial(dict(point))
    for _ in range(50):
        params = found.suggest(study.ask())
        RunConfig.from_mapping({**settings, **params})
    assert {"default", "paper", "wide"} <= set(shipped_spaces())


def test_paper_settings_are_tried_first() -> None:
    points = load_space("default", RunConfig().as_dict()).enqueue
    assert [point["alpha"] for point in points] == [1e-3, 1e-3]
    assert [point["decay"] for point in points] == [1e-3, 1e-4]


def test_conditional_dimension_is_asked_for_only_when_active() -> None:
    found = parse_space(SPACE, KNOWN)
    assert found.suggest(FixedTrial({"lr": 0.5, "layers": 0, "heads": 2})) == {
        "lr": 0.5,
        "layers": 0,
    }
    params = found.suggest(FixedTrial({"lr": 0.5, "layers": 2, "heads": 2}))
    assert list(params) == ["lr", "layers", "heads"]


def test_pinned_settings_leave_the_space_and_decide_conditions() -> None:
    found = parse_space(SPACE + "[[enqueue]]\nlr = 0.5\nlayers = 2\n", KNOWN)
    off = found.resolve({**KNOWN, "layers": 0}, frozenset({"layers"}))
    assert off.names == ("lr",)
    assert off.enqueue == ()  # it asked for two layers
    on = found.resolve({**KNOWN, "layers": 2}, frozenset({"layers"}))
    assert on.names == ("lr", "heads")
    assert on.enqueue == ({"lr": 0.5},)
    assert on.dimensions[1].when == {}


def test_grid_lists_each_combination_once() -> None:
    found = parse_space(DISCRETE, KNOWN)
    grid = [tuple(sorted(point.items())) for point in found.grid()]
    # 3 rates x (no layers, or 2 numbers of layers x 3 of heads)
    assert len(grid) == len(set(grid)) == found.size() == 3 * (1 + 2 * 3)
    assert parse_space(SPACE, KNOWN).size() is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dimensions.alpa]\ntype = 'float'", ["alpa", "did you mean 'alpha'"]),
        ("[dimensions.lr]\ntype = 'flot'", ["dimensions.lr", "did you mean 'float'"]),
        ("[dimensions.lr]\ntype='float'\nlow=0.1\nhigh=1.0\nlogg=true", ["did you mean 'log'"]),
        ("[dimensions.lr]\ntype='float'\nlow=0.1", ["high is missing"]),
        ("[dimensions.lr]\ntype='float'\nlow=1.0\nhigh=0.1", ["not below"]),
        ("[dimensions.lr]\ntype='float'\nlow=0.0\nhigh=0.1\nlog=true", ["above 0"]),
        ("[dimensions.lr]\ntype='float'\nlow=0.1\nhigh=1.0\nlog=true\nstep=0.1", ["exclude"]),
        ("[dimensions.lr]\ntype='float'\nlow=0.1\nhigh=1.0\nstep=0.4", ["does not lead"]),
        ("[dimensions.lr]\ntype='float'\nlow='a'\nhigh=1.0", ["expected a number"]),
        ("[dimensions.layers]\ntype='int'\nlow=0.5\nhigh=1", ["expected a whole number"]),
        ("[dimensions.heads]\ntype='categorical'", ["expected a list"]),
        ("[dimensions.heads]\ntype='categorical'\nchoices=[1, 1]", ["each value once"]),
        ("[dimensions.epochs]\ntype='int'\nlow=1\nhigh=9", ["not searched"]),
        (SPACE.replace("layers = [1, 2]", "layrs = [1]"), ["did you mean 'layers'"]),
        (SPACE.replace("layers = [1, 2]", "layers = [5]"), ["layers is never 5"]),
        (SPACE.replace("layers = [1, 2]", "layers = []"), ["at least one"]),
        (SPACE + "[[enqueue]]\nlrr = 0.5", ["did you mean 'lr'"]),
        (SPACE + "[[enqueue]]\nlr = 5.0", ["lr = 5.0", "outside"]),
        ("[dimension.lr]", ["did you mean 'dimensions'"]),
        ("", ["nothing to search"]),
        ("lr = ", ["not a TOML file"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space(text, {**KNOWN, "alpha": 1.0, "epochs": 1}, "my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_condition_on_a_later_dimension_is_refused() -> None:
    tables = SPACE.strip().split("\n\n")
    with pytest.raises(ConfigError, match="has to stand above"):
        parse_space("\n\n".join(tables[::-1]), KNOWN)


def test_unknown_space_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'default'"):
        load_space("defalt", KNOWN)
    with pytest.raises(ConfigError, match="no such file"):
        load_space("missing.toml", KNOWN)
