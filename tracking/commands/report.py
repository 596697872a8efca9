"""Write a study's report as one HTML page.

Write one self-contained HTML page (no network, no script) and the same as Markdown beside it: the
winner and how certain that is, the ranking, how the search went, which settings mattered, confusion
matrices, learning curves, cost, failures, data, and the command that continues the study. Both are
made from the study's result.json alone (a nested study's from its nested.json, and it says what the
outer folds gave), and logged to the study's run in MLflow.

  python -m tracking report runs/demo
  python -m tracking report runs/demo --out /tmp/demo.html --open no

exit codes: 0 the page is written, even if MLflow cannot be reached; 2 the folder holds no result,
or the page cannot be written
"""

import argparse
import contextlib
import logging
import os
import sys
import webbrowser
from pathlib import Path

from fdan.errors import FdanError, disk_full
from fdan.machine.rights import denied, explain
from tracking.commands import STUDY, study_folder
from tracking.nested_result import load_result


def run(arguments: argparse.Namespace) -> int:
    from tracking import report
    from tracking.report.logged import NotLogged, log

    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    study = study_folder(arguments.study)
    try:
        files = report.write(study, arguments.out)
    except OSError as error:
        place = arguments.out or study
        reason: object = error.strerror or error
        if disk_full(error):
            reason = "no room left on the disk"
        elif denied(error):
            reason = explain(error, place)
        raise FdanError(f"{place}: cannot be written: {reason}") from None
    for file in files:
        print(file)
    try:
        log(study, files, arguments.tracking_uri)
    except NotLogged as error:
        print(f"not logged to MLflow: {' '.join(str(error).split())}", file=sys.stderr)
    else:
        print(f"logged to MLflow, with the run of study '{load_result(study).study}'")
    if arguments.open == "yes" or (arguments.open == "auto" and _has_screen()):
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(files[0].resolve().as_uri())
    return 0


def _has_screen() -> bool:
    """Whether this runs in a terminal and a browser has a screen to open on."""
    if not sys.stdout.isatty():
        return False
    screens = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(screens)


def add_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("study", metavar="STUDY", help=STUDY)
    text = "the page; the Markdown goes beside it (default: report.html in the study's folder)"
    add("--out", type=Path, metavar="FILE.html", help=text)
    text = "show it in a browser; auto: if there is a screen (default: auto)"
    add("--open", choices=("auto", "yes", "no"), default="auto", help=text)
    text = "MLflow's server or database to log it to (default: the study's)"
    add("--tracking-uri", metavar="URI", help=text)
