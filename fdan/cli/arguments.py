"""The command-line arguments that training and searching share: data, model, training.

A flag that is not given stays absent, so that its default can depend on the task and the machine
(`settings_of`) and a search can tell a choice from a default.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from fdan.config import Config, add_options, given
from fdan.corpora import STORE, Source, parse_source
from fdan.corpora.demo.ahead import Ahead
from fdan.data.prepare import prepare
from fdan.data.split import Split, SplitConfig, split
from fdan.data.store import Progress, Store, Tell
from fdan.data.task import Task
from fdan.errors import ConfigError, DiskFull, FdanError, disk_full, unknown
from fdan.media.faces import FaceSettings
from fdan.media.spectrogram import SpectrogramSettings
from fdan.run_config import KernelConfig, ModelConfig, TrainConfig

DEMO: Final = "demo"

_DATA: Final[tuple[tuple[type[Config], str], ...]] = (
    (SpectrogramSettings, "speech images (prepared once)"),
    (FaceSettings, "face images (prepared once)"),
    (SplitConfig, "split"),
)
_RUN: Final[tuple[tuple[type[Config], str], ...]] = (
    (ModelConfig, "model"),
    (KernelConfig, "LMMD kernels"),
    (TrainConfig, "training"),
)

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
_WHEN: Final = {
    "demo": "the demo corpus",
    "cpu": "a corpus of your own, on a CPU",
    "gpu": "a corpus of your own, on a GPU",
}


class Parser(argparse.ArgumentParser):
    """One line for what is wrong, the nearest known name with it, and exit code 2."""

    scattered: str | None = None
    """The list of positional arguments to which those after an option belong, too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", _Formatter)
        kwargs["allow_abbrev"] = False
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        self.exit(2, f"error: {message}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nobody passes unknown options on. A command's own parser names the nearest of its own."""
        found, extra = super().parse_known_args(args, namespace)
        if self.scattered is not None:
            getattr(found, self.scattered).extend(word for word in extra if word[:1] != "-")
            extra = [word for word in extra if word[:1] == "-"]
        if extra:
            name = extra[0].partition("=")[0]
            if not name.startswith("-"):
                self.error(f"'{extra[0]}': expected an option such as --help before it")
            line = unknown("option", name, self._option_string_actions).partition(" Known:")[0]
            self.error(f"{line.rstrip(':')}; see --help")
        return found, extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            line = unknown("value", str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, line)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Room for the long names of options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def exit_code(main: Callable[[], int]) -> int:
    """Run a command: a user's mistake is one line on stderr and 2, Ctrl-C is 130."""
    try:
        return main()
    except FdanError as error:
        return _mistake(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not disk_full(error):
            raise
        return _mistake(DiskFull(getattr(error, "filename", None) or error))


def _mistake(error: FdanError) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The data: its sources, how they are prepared, how they are split."""
    group = parser.add_argument_group(
        "data",
        "CORPUS is one of savee, meld, ravdess, folders (a folder of class folders of images,\n"
        "audio or video, such as FER2013), demo; store:FOLDER opens a prepared store as it is.\n"
        "Without any of these, the demo corpus is generated and used.",
    )
    text = "both modalities of one corpus"
    group.add_argument("--task", metavar="CORPUS:PATH", help=f"{text} (default: the demo corpus)")
    for modality, what in (("acoustic", "speech"), ("visual", "faces")):
        group.add_argument(
            f"--{modality}",
            metavar="CORPUS:PATH",
            action="append",
            default=[],
            help=f"a corpus that gives the {what}; may be repeated",
        )
    group.add_argument(
        "--runs",
        metavar="FOLDER",
        type=Path,
        default=Path("runs"),
        help="where stores, features, studies and models go (default: ./runs)",
    )
    group.add_argument(
        "--workers",
        metavar="INT",
        type=_positive,
        help="processes that prepare data (default: one a core)",
    )
    for config, title in _DATA:
        add_options(parser, config, title, _presets_for(config))


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its kernels, its training and its device."""
    for config, title in _RUN:
        add_options(parser, config, title, _presets_for(config))
    parser.add_argument_group("device").add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:0 ... (default: auto, the GPU if there is one)",
    )


def sources(arguments: argparse.Namespace) -> list[Source]:
    """What --task, --acoustic and --visual name, or the demo corpus under --runs."""
    if arguments.task is not None:
        if arguments.acoustic or arguments.visual:
            raise ConfigError("--task names both modalities: leave out --acoustic and --visual")
        if arguments.task.partition(":")[0].strip().lower() == STORE:
            raise ConfigError("--task: a store holds one modality; use --acoustic and --visual")
        return [parse_source(arguments.task, modality) for modality in ("acoustic", "visual")]
    found = [parse_source(text, "acoustic") for text in arguments.acoustic]
    found += [parse_source(text, "visual") for text in arguments.visual]
    if not found:
        folder = demo_folder(arguments.runs)
        return [Source(DEMO, folder, modality) for modality in ("acoustic", "visual")]
    for modality in ("acoustic", "visual"):
        if not any(source.modality == modality for source in found):
            raise ConfigError(f"a task needs both modalities: give --{modality} CORPUS:PATH too")
    return found


def demo_folder(runs: Path) -> Path:
    """Where the demo corpus is generated."""
    return (runs / "data" / DEMO).absolute()


def preset(arguments: argparse.Namespace, *, gpu: bool) -> str:
    """Which of PRESETS applies."""
    if all(source.corpus == DEMO for source in sources(arguments)):
        return "demo"
    return "gpu" if gpu else "cpu"


@dataclass(frozen=True)
class Settings:
    """All settings of data and run, and which of them the user chose."""

    preset: str
    values: Mapping[str, Any]
    """Every field of every configuration: the user's, else the preset's, else the default."""
    chosen: frozenset[str]

    def of(self, config: type[Config]) -> dict[str, Any]:
        """The fields of one configuration, to build it from."""
        return {name: self.values[name] for name in _names(config)}

    @property
    def run(self) -> dict[str, Any]:
        """The flat values of a RunConfig."""
        return {name: self.values[name] for config, _ in _RUN for name in _names(config)}

    def source(self, name: str) -> str:
        """Where a value comes from, in a word."""
        if name in self.chosen:
            return "chosen"
        return self.preset if name in PRESETS[self.preset] else "default"


def settings_of(arguments: argparse.Namespace, *, gpu: bool) -> Settings:
    """Resolve the command line. Raises ConfigError for a value out of its range."""
    name = preset(arguments, gpu=gpu)
    values: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for config, _ in (*_DATA, *_RUN):
        own = given(config, arguments)
        replaced = {k: v for k, v in PRESETS[name].items() if k in _names(config)}
        values |= config.from_mapping({**replaced, **own}, "command line").as_dict()
        chosen |= own
    if values["weights"] not in ("imagenet", "none"):  # a worker runs in another folder
        values["weights"] = str(_weights_file(values["weights"]))
    return Settings(name, values, frozenset(chosen))


def ahead(arguments: argparse.Namespace) -> Ahead | None:
    """The demo corpus in the making, for `open_task`; None where none is asked for."""
    folder = demo_folder(arguments.runs)
    if all(source.path != folder for source in sources(arguments)):
        return None
    return Ahead(folder, arguments.workers)


def open_task(
    arguments: argparse.Namespace,
    settings: Settings,
    progress: Tell | None = None,
    demo: Ahead | None = None,
) -> tuple[Task, Split]:
    """The task and its split; what is not prepared yet is prepared, the demo corpus generated.

    demo: where that was begun before. Raises DataError and ConfigError for what the user has to
    mend.
    """
    if demo is None:
        demo = ahead(arguments)
    if demo is not None:
        with demo:
            _wait(demo, progress)
    stores: dict[str, list[Store]] = {"acoustic": [], "visual": []}
    for source in sources(arguments):
        kind = SpectrogramSettings if source.modality == "acoustic" else FaceSettings
        stores[source.modality].append(
            prepare(
                source,
                kind.from_mapping(settings.of(kind)),
                arguments.runs / "stores",
                workers=arguments.workers,
                progress=progress,
            )
        )
    task = Task(tuple(stores["acoustic"]), tuple(stores["visual"]))
    return task, split(task, SplitConfig.from_mapping(settings.of(SplitConfig)))


def _wait(demo: Ahead, progress: Tell | None) -> None:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress(f"demo corpus {demo.folder}", "generating", done, total))

    demo.wait(tell)


def _weights_file(text: str) -> Path:
    path = Path(text).expanduser().absolute()
    if "://" in text:
        raise ConfigError(f"--weights {text}: is an address; download it, then name the file")
    if path.is_dir():
        raise ConfigError(f"--weights {text}: is a folder; name a state dict's file in it")
    if not path.exists():
        raise ConfigError(
            f"--weights {text}: no such file; give a state dict's file, 'imagenet' or 'none'"
        )
    return path


def _names(config: type[Config]) -> list[str]:
    return list(config.__dataclass_fields__)


def _presets_for(config: type[Config]) -> str:
    """The group's lines about defaults that depend on the task."""
    lines = []
    for name, values in PRESETS.items():
        own = [f"{key} {value}" for key, value in values.items() if key in _names(config)]
        if own:
            lines.append(f"for {_WHEN[name]}: {', '.join(own)}")
    return "\n".join(lines)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be at least 1")
    return value
