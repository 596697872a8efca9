"""`--nested`: what it cannot be combined with."""

from fdan.data.settings import Settings
from fdan.errors import ConfigError
from search.config.options import ConfirmConfig, StudyConfig


def check_nested(study: StudyConfig, confirm: ConfirmConfig, settings: Settings) -> None:
    """Refuse what a nested study cannot have, with a ConfigError.

    Args:
        study: The study's own options.
        confirm: What follows its search.
        settings: Settings of its data.
    """
    if study.nested is None:
        return
    split, given = settings.split, f"--nested {study.nested}"
    if split.protocol != "speaker":
        raise ConfigError(
            f"{given}: outer folds divide the speakers, and protocol {split.protocol} has other"
            f" parts: use --protocol speaker, or --protocol {split.protocol} without --nested"
        )
    if split.has_outer:
        raise ConfigError(
            f"{given}: runs all outer folds, and --outer {split.outer} is one of them: leave one of"
            " the two out"
        )
    if split.test is not None:
        raise ConfigError(
            f"{given}: each outer fold is the test part of its own search: leave out --test"
        )
    if confirm.promote:
        raise ConfigError(
            f"{given}: says how good the procedure is and leaves no single model, so there is none"
            " to promote: leave out --promote, and promote from a study without --nested"
        )
    if confirm.score_again is not None:
        raise ConfigError(
            f"{given}: each outer fold is scored once: leave out --score-again, or give it with"
            " --study and the name of one outer fold's study"
        )
