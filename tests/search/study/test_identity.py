"""Two identities: what makes them differ, and what an earlier version did not have."""

from __future__ import annotations

from dataclasses import asdict, replace

from fdan.data.split import SplitConfig
from fdan.run_config import RunConfig
from search.study.identity import Identity, describe_differences

NOW = Identity({}, "a" * 64, SplitConfig(folds="none").as_dict(), RunConfig().as_dict(), 0)


def test_settings_that_came_later_had_their_defaults() -> None:
    stored = asdict(NOW)
    for name in ("optimizer", "average"):
        del stored["fixed"][name]
    del stored["split"]["folds"], stored["split"]["outer"]
    assert describe_differences(stored, NOW) == []
    other = replace(NOW, fixed={**NOW.fixed, "optimizer": "adamw"})
    assert describe_differences(stored, other) == [
        "other fixed settings (optimizer: sgd, now adamw)"
    ]
    folds = replace(NOW, split={**NOW.split, "folds": "loso"})
    assert describe_differences(stored, folds) == ["another split (folds: none, now loso)"]
    assert describe_differences(asdict(folds), NOW) == ["another split (folds: loso, now none)"]


def test_a_setting_that_is_not_shared_any_more_is_named() -> None:
    stored = asdict(NOW)
    fixed = {name: value for name, value in NOW.fixed.items() if name != "lr"}
    assert describe_differences(stored, replace(NOW, fixed=fixed)) == [
        "other fixed settings (lr is gone)"
    ]
