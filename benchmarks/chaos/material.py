"""python -m benchmarks.chaos.material FOLDER: what all studies train on, made once: a small demo
corpus, its stores and its frozen features. Prints where they are."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

SPEAKERS: Final = 6
TAKES: Final = 2


@dataclass(frozen=True)
class Material:
    """Where things are, and the settings that they were prepared with."""

    corpus: str
    runs: str
    """With the stores and features that our studies find, too."""
    acoustic: str
    """A store."""
    visual: str
    features: str
    split: dict[str, Any]
    fixed: dict[str, Any]
    """A RunConfig, apart from what is searched."""


def make(folder: Path) -> Material:
    """As our command line prepares the demo corpus."""
    import torch

    from fdan.corpora.demo import generate
    from fdan.data.open_task import DataConfig, open_task
    from fdan.data.settings import make_settings
    from fdan.data.split import SplitConfig
    from fdan.run_config import RunConfig
    from fdan.training.training_data import load_training_data

    corpus = generate(folder / "corpus", speakers=SPEAKERS, takes=TAKES, uneven=False)
    runs = folder / "runs"
    data = DataConfig(task=f"demo:{corpus}", runs=runs)
    settings = make_settings({"folds": "none"}, data.preset(gpu=False))
    task, parts = open_task(data, settings)
    run = RunConfig.from_mapping(settings.run)
    load_training_data(task, parts, run, torch.device("cpu"), runs / "features")
    return Material(
        str(corpus),
        str(runs),
        str(task.acoustic[0].folder),
        str(task.visual[0].folder),
        str(runs / "features"),
        SplitConfig.pick(settings.values),
        settings.run,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(make(Path(sys.argv[1]).absolute()))))
