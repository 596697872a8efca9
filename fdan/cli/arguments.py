"""The command line that training and searching share: the parser, flags from configurations, exit
codes.

A flag that is not given stays absent, so that its default can depend on the task and the machine
(fdan/data/settings.py) and a search can tell a choice from a default.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import Field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NoReturn

from fdan.config import Config, fields
from fdan.data.open_task import DataConfig
from fdan.data.settings import DATA_CONFIGS, PRESETS
from fdan.errors import DiskFull, FdanError, disk_full, out_of_memory, unknown
from fdan.files import first_line
from fdan.machine.home import ensure_home
from fdan.machine.rights import denied, explain
from fdan.run_config import RUN_CONFIGS

_WHEN: Final = {
    "demo": "the demo corpus",
    "cpu": "a corpus of your own, on a CPU",
    "gpu": "a corpus of your own, on a GPU",
}

_NO_TEMPORARY: Final = "No usable temporary directory"  # Python's words


class Parser(argparse.ArgumentParser):
    """One line for what is wrong, the nearest known name with it, and exit code 2."""

    scattered: str | None = None  # the positional arguments to which those after an option belong

    def __init__(self, **kwargs: Any) -> None:
        # Room for the long names of options.
        form = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
        super().__init__(formatter_class=form, allow_abbrev=False, **kwargs)

    def add_version(self) -> None:
        """Add --version."""
        about: dict[str, Any] = {"default": argparse.SUPPRESS, "help": "show the version"}
        self.add_argument("--version", action=_Version, nargs=0, **about)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message.removeprefix('argument ')}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nobody passes unknown options on. A command's own parser names the nearest of its own."""
        parsed, extra = super().parse_known_args(args, namespace)
        if self.scattered is not None:
            getattr(parsed, self.scattered).extend(word for word in extra if word[:1] != "-")
            extra = [word for word in extra if word[:1] == "-"]
        if extra:
            name = extra[0].partition("=")[0]
            if not name.startswith("-"):
                self.error(f"'{extra[0]}': expected an option such as --help before it")
            line = unknown("option", name, self._option_string_actions).partition(" Known:")[0]
            self.error(f"{line.rstrip(':')}; see --help")
        return parsed, extra

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            line = unknown("value", str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, line)


class _Version(argparse.Action):
    """Prints the installed version, which takes a moment to find out, and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        try:
            found = version("fdan-search")
        except PackageNotFoundError:
            found = "of a checkout that is not installed"
        print(f"fdan-search {found}")
        parser.exit()


def exit_code(main: Callable[[], int]) -> int:
    """Run a command, which has a home: a user's mistake is one line on stderr and 2, Ctrl-C is
    130."""
    code = _run(main)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"error: the output could not be written: {error}", file=sys.stderr)
        return code or 1
    return code


def _run(main: Callable[[], int]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have bytes that are no UTF-8
        with contextlib.suppress(OSError):  # it flushes: what fails there fails again at the end
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if line := ensure_home():
            print(line, file=sys.stderr)
        return main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not isinstance(error, FdanError):
            if disk_full(error):
                copy = getattr(error, "filename2", None)  # of a file that was copied
                error = DiskFull(copy or getattr(error, "filename", None) or error)
            elif out_of_memory(error):
                reason = first_line(error, 200) or type(error).__name__
                error = FdanError(
                    f"there is too little memory ({reason}): end what else takes some, or give this"
                    " more, then the same command goes on"
                )
            elif isinstance(error, OSError) and _NO_TEMPORARY in str(error):
                error = FdanError(f"{error.strerror}: set TMPDIR to a folder that can be written")
            elif isinstance(error, OSError) and error.filename and denied(error):
                error = FdanError(explain(error, Path(error.filename)))
            else:
                raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def add_flags(parser: argparse._ActionsContainer, config: type[Config]) -> None:
    """Add one flag for each field of a configuration.

    Args:
        parser: A parser or a group of one.
        config: Configuration whose fields become flags. One not given stays absent (SUPPRESS).
    """
    for field, kinds, _ in fields(config):
        meta, text = field.metadata, _help(field)
        flag = "--" + field.name.replace("_", "-")
        common: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if kinds == (bool,) and field.default:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif kinds == (bool,):
            parser.add_argument(flag, action="store_true", **common)
            hidden = {**common, "help": argparse.SUPPRESS}
            parser.add_argument(flag.replace("--", "--no-", 1), action="store_false", **hidden)
        else:
            choices = meta.get("choices") or None
            parser.add_argument(
                flag,
                action="append" if kinds == (tuple,) else "store",
                type=str if kinds == (tuple,) or meta.get("parse") else kinds[0],
                choices=choices,
                metavar=None if choices else meta.get("metavar") or kinds[0].__name__.upper(),
                **common,
            )


def _help(field: Field[Any]) -> str:
    meta, default = field.metadata, field.default
    unit = f" [{meta['unit']}]" if meta.get("unit") else ""
    text = f"{default:g}" if isinstance(default, float) else str(default)
    text = meta.get("default_text") or ("none" if default is None else text)
    shown = "" if default is False or default == () else f" (default: {text})"
    return f"{meta['help']}{unit}{shown}".replace("%", "%%")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The data: its sources, how they are prepared, how they are split."""
    group = parser.add_argument_group(
        "data",
        "CORPUS is one of savee, meld, ravdess, folders (a folder of class folders of images,\n"
        "audio or video, such as FER2013), demo; store:FOLDER opens a prepared store as it is.\n"
        "Without any of these, the demo corpus is generated and used.",
    )
    add_flags(group, DataConfig)
    titles = ("speech images (prepared once)", "face images (prepared once)", "split")
    _add_settings(parser, DATA_CONFIGS, titles)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its kernels and its training."""
    _add_settings(parser, RUN_CONFIGS, ("model", "LMMD kernels", "training"))


def _add_settings(
    parser: argparse.ArgumentParser, configs: tuple[type[Config], ...], titles: tuple[str, ...]
) -> None:
    """A group of flags for each configuration. It names the defaults that depend on the task."""
    for config, title in zip(configs, titles, strict=True):
        lines = []
        for preset, values in PRESETS.items():
            own = ", ".join(f"{name} {value}" for name, value in config.pick(values).items())
            if own:
                lines.append(f"for {_WHEN[preset]}: {own}")
        add_flags(parser.add_argument_group(title, "\n".join(lines) or None), config)
