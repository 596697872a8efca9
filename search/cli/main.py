"""The search command, and its command line, which is generated from the options of a study. It is
read before Ray and MLflow are imported."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fdan.cli.arguments import Parser, add_data_arguments, add_flags, add_run_arguments, exit_code
from fdan.corpora.demo import BackgroundDemo
from fdan.errors import ConfigError
from fdan.machine.cpus import use_all_cpus
from search.config import options, resume_options
from search.config.spec import StudySpec, resolve
from search.optimizer.pruners import PRUNERS
from search.optimizer.samplers import N_STARTUP_TRIALS, SAMPLERS

DESCRIPTION: Final = """\
Search the hyperparameters of FDAN: Optuna proposes trials, Ray Tune runs them, MLflow shows them.
With no options at all, the demo corpus is searched here and now. The same command again continues
the study; a higher --trials extends it."""

EXAMPLES: Final = """\
examples:
  python search/run.py
      20 trials on the demo corpus, on this machine
  python search/run.py --acoustic ravdess:/data/RAVDESS --visual folders:/data/FER2013/train \\
      --backbone resnet18 --trials 50 --time-budget 2h
      speech of RAVDESS and faces of FER2013, for at most two hours
  python search/run.py --task savee:/data/SAVEE --space paper --sampler grid --lr 0.001 --dry-run
      the paper's grid on SAVEE with the learning rate pinned: shows the plan, starts nothing
  python search/run.py --task savee:/data/SAVEE --nested loso --confirm 3
      each of its four speakers tested by a search that never heard them: how good all this is
  python search/run.py --trials 50 --lr 0.01 --print-config > study.toml
  python search/run.py --config study.toml
      the same study from a file"""

_SEARCH: Final = "\n".join(
    [
        "samplers:",
        *(f"  {name:<10} {text}" for name, text in SAMPLERS.items()),
        "pruners:",
        *(f"  {name:<10} {text}" for name, text in PRUNERS.items()),
        f"tpe and gp start with {N_STARTUP_TRIALS} random trials: with as many or more at",
        "once (--concurrent), as many are random.",
        "A setting given by its flag (--lr 0.01) is not searched.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, which is 2 for a user's mistake."""
    use_all_cpus()
    return exit_code(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    command = parse(argv)
    if sys.flags.optimize > 1:
        raise ConfigError("PYTHONOPTIMIZE=2 (python -OO) leaves out texts that Ray needs: unset it")
    remembered = resume_options.remembered_options(command.options)
    resumed = {**remembered, **command.options}
    spec = resolve(resumed, options.to_arguments(remembered))
    if command.print_config:
        print(options.to_toml(resumed), end="")
        return 0
    if note := resume_options.new_study_note(command.options):
        print(note, file=sys.stderr)
    if command.dry_run or command.estimate:
        _dry_run(spec, estimate_time=command.estimate)
        return 0
    # While one core imports torch and Ray, the others have something to do.
    demo = spec.data.generate_demo()
    with demo or contextlib.nullcontext():
        summary, code = _run(spec, demo)
    print(summary)
    return code


def _dry_run(spec: StudySpec, *, estimate_time: bool) -> None:
    if spec.study.nested is not None:
        from search.nested.dry_run import dry_run_nested

        dry_run_nested(spec, estimate_time=estimate_time)
        return
    from search.planning.dry_run import dry_run

    dry_run(spec, estimate_time=estimate_time)


def _run(spec: StudySpec, demo: BackgroundDemo | None) -> tuple[str, int]:
    """Run a study, or a nested one. Returns its last lines and the exit code."""
    if spec.study.nested is not None:
        from search.nested.pipeline import run as run_nested

        nested = run_nested(spec, demo)
        return nested.summary, nested.exit_code
    from search.pipeline import run

    finished = run(spec, demo)
    return finished.summary, finished.exit_code


@dataclass(frozen=True)
class CommandLine:
    """What a command line says."""

    options: Mapping[str, Any]  # options of the study, from --config and from the flags, which win
    print_config: bool
    dry_run: bool
    estimate: bool


def parse(argv: Sequence[str] | None = None) -> CommandLine:
    """Read a command line (None: that of this process). Ends the process like argparse where it is
    wrong, and raises ConfigError for a value or a file that is refused."""
    arguments = vars(_parser().parse_args(argv))
    file = arguments.pop("config")
    command = {name: arguments.pop(name) for name in ("print_config", "dry_run", "estimate")}
    given = {}
    if file is not None:
        given = resume_options.moved_options(options.read_options(file), file)
    given |= options.normalize(arguments, "command line")
    return CommandLine(resume_options.without_masked(given), **command)


def _parser() -> Parser:
    """All flags, grouped; those of data, model and training are shared with `python -m fdan`."""
    parser = Parser(
        prog="search/run.py",
        usage="python search/run.py [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_version()
    study = parser.add_argument_group("study")
    add_flags(study, options.StudyConfig)
    add_flags(study, options.ConfirmConfig)
    study.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, space, split and planned trials; of a study that exists,\n"
        "those that are left; and start nothing",
    )
    study.add_argument(
        "--estimate",
        action="store_true",
        help="as --dry-run, and time a few training steps here: how long the study would take",
    )
    study.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="read options from a TOML file; flags win over it",
    )
    study.add_argument(
        "--print-config",
        action="store_true",
        help="print the TOML file that says what this command line says, and start nothing",
    )
    add_flags(parser.add_argument_group("search", _SEARCH), options.SearchConfig)
    add_flags(parser.add_argument_group("resources"), options.ResourceConfig)
    add_data_arguments(parser)
    add_run_arguments(parser)
    return parser
