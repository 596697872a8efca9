"""The settings of data, model and training, and where each value comes from: chosen, a preset for
the task and the machine, or the default."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdan.config import Config
from fdan.data.split import SplitConfig
from fdan.errors import ConfigError
from fdan.media.faces import FaceSettings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.run_config import RUN_CONFIGS

DATA_CONFIGS: Final[tuple[type[Config], ...]] = (SpectrogramSettings, FaceSettings, SplitConfig)

# What replaces the configurations' own defaults, and when. The demo corpus is small enough for two
# CPU cores; a whole ResNet-34 on a CPU takes days, its features minutes.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "demo": {
        "spectrogram_size": 64,
        "face_size": 64,
        "margin": 0.0,
        "detect_side": 128,
        "backbone": "resnet18",
        "weights": "none",
        "tuning": "frozen",
        "epochs": 30,
    },
    # A head on frozen features is at its best after 10 to 20 epochs.
    "cpu": {"tuning": "frozen", "epochs": 30},
    "gpu": {},
}


@dataclass(frozen=True)
class Settings:
    """All settings of data and run, and which of them the user chose."""

    preset: str
    values: Mapping[str, Any]  # of all fields: the user's, else the preset's, else the default
    chosen: frozenset[str]

    @property
    def run(self) -> dict[str, Any]:
        """The flat values of a RunConfig."""
        return {n: value for c in RUN_CONFIGS for n, value in c.pick(self.values).items()}

    @property
    def split(self) -> SplitConfig:
        return SplitConfig(**SplitConfig.pick(self.values))

    @property
    def preparation(self) -> dict[str, SpectrogramSettings | FaceSettings]:
        """Each modality's preparation settings."""
        return {
            "acoustic": SpectrogramSettings(**SpectrogramSettings.pick(self.values)),
            "visual": FaceSettings(**FaceSettings.pick(self.values)),
        }

    def source(self, name: str) -> str:
        """Origin of a value, in one word."""
        if name in self.chosen:
            return "chosen"
        return self.preset if name in PRESETS[self.preset] else "default"


def make_settings(options: Mapping[str, Any], preset: str) -> Settings:
    """Complete the chosen settings by a preset's values and the defaults.

    Args:
        options: Settings by name; names that belong to no configuration of data or run are ignored.
        preset: A key of PRESETS.
    """
    values: dict[str, Any] = {}
    chosen: set[str] = set()
    for config in (*DATA_CONFIGS, *RUN_CONFIGS):
        own = config.pick(options)
        values |= config(**{**config.pick(PRESETS[preset]), **own}).as_dict()
        chosen |= own.keys()
    weights = values["weights"]
    if weights not in ("imagenet", "none"):
        path = Path(weights).expanduser().absolute()  # a worker runs in another folder
        if "://" in weights:
            raise ConfigError(
                f"--weights {weights}: is an address; download it, then name the file"
            )
        if path.is_dir():
            raise ConfigError(f"--weights {weights}: is a folder; name a state dict's file in it")
        if not path.exists():
            raise ConfigError(
                f"--weights {weights}: no such file; give a state dict's file, 'imagenet' or 'none'"
            )
        values["weights"] = str(path)
    return Settings(preset, values, frozenset(chosen))
