"""The pages' pictures, taken in a real browser: a study's report, its trials compared in MLflow,
and its model's page in the registry.

    pip install -e '.[screenshots]'
    python -m benchmarks.screenshots runs/demo

needs Chromium with its driver, and a study that was promoted (`make search` does). The report is
looked at first in a wide and a narrow window, light and dark: what sticks out of a window or of its
picture ends it. MLflow runs on a copy of the database, so nothing of the study is touched."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks.mlflow_server import mlflow_server
from tracking.result import StudyResult
from tracking.tags import SEARCH, STAGE, STUDY_ID
from tracking.uri import sqlite_file

WIDTH = 1280
_COMPARED = 8
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_S = 90.0
_DRAWING_S = 1.5
_TRAINING = "&workflowType=machine_learning"  # not MLflow's side for language models
_ASSISTANT = "document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')"
"""What closes the panel that a browser new to MLflow finds open."""


# Tables and commands may be wider than the window: they have scroll bars of their own.
_BEYOND = """
const found = [], name = e => e.tagName + ' ' + (e.textContent || '').slice(0, 40);
const out = (e, box) => {
  const r = e.getBoundingClientRect();
  if (r.width && (r.right > box.right + 2 || r.left < box.left - 2)) found.push(name(e));
};
const page = document.documentElement.getBoundingClientRect();
document.querySelectorAll('body *:not(.scroll *):not(pre *):not(svg *)').forEach(e => out(e, page));
document.querySelectorAll('figure svg[role=img]').forEach(svg => {
  const box = svg.getBoundingClientRect();
  if (box.width) svg.querySelectorAll('text').forEach(e => out(e, box));
});
return found.slice(0, 5).join('; ');
"""


@dataclass
class Browser:
    """A headless Chromium."""

    driver: Any

    def open(self, address: str, height: int, narrow: bool = False, dark: bool = False) -> None:
        """Show a page in a window of so many pixels; dark: as for who asked for dark pages."""
        size = {"width": 390 if narrow else WIDTH, "height": height, "deviceScaleFactor": 1}
        self._tell("Emulation.setDeviceMetricsOverride", **size, mobile=narrow)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._tell("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get(address)

    def wait(self, what: str, script: str) -> None:
        """Until a script is true, and a moment for what it draws. SystemExit if it never is."""
        until = time.monotonic() + _PATIENCE_S
        while not self.driver.execute_script(f"return Boolean({script})"):
            if time.monotonic() > until:
                raise SystemExit(f"the page {self.driver.current_url} never showed {what}")
            time.sleep(0.3)
        time.sleep(_DRAWING_S)
        if self.driver.execute_script(f"const open = {_ASSISTANT}; open?.click(); return !!open"):
            self.driver.refresh()  # drawn again in the room that there is now
            self.wait(what, script)

    def picture(self, file: Path) -> None:
        """What the window shows, as PNG."""
        taken = self._tell("Page.captureScreenshot", format="png")
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_bytes(base64.b64decode(taken["data"]))
        partial.replace(file)

    def _tell(self, command: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, values)


@contextmanager
def browser() -> Iterator[Browser]:
    """One of its own, closed at the end. SystemExit where there is none."""
    try:
        from selenium import webdriver
    except ImportError:
        raise SystemExit(
            "selenium is not installed here: pip install -e '.[screenshots]'"
        ) from None
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    beside = shutil.which("chromedriver")
    if found is None or beside is None:
        raise SystemExit("no Chromium with its chromedriver is installed here")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for word in ("--headless=new", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(word)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium does not start as root with it
    service = webdriver.ChromeService(executable_path=beside)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def report(window: Browser, study: Path, out: Path) -> None:
    """The page's beginning. SystemExit where something of the page sticks out."""
    page = (study / "report.html").resolve().as_uri()
    for narrow in (True, False):
        for dark in (True, False):
            window.open(page, 1130, narrow, dark)
            window.wait("a title", "document.querySelector('h1')")
            if beyond := window.driver.execute_script(_BEYOND):
                kind = f"{'narrow' if narrow else 'wide'}, {'dark' if dark else 'light'}"
                raise SystemExit(f"{page} ({kind}): beyond the window or picture: {beyond}")
    window.picture(out / "report.png")


def comparison(
    window: Browser, uri: str, rows: Callable[..., list[Any]], of: StudyResult, out: Path
) -> None:
    """Trials side by side, the best ones, as parallel coordinates."""
    tagged = (
        "select r.run_uuid, r.experiment_id from runs r"
        f" join tags s on s.run_uuid = r.run_uuid and s.key = '{STUDY_ID}' and s.value = ?"
        f" join tags g on g.run_uuid = r.run_uuid and g.key = '{STAGE}' and g.value = '{SEARCH}'"
        " join latest_metrics m on m.run_uuid = r.run_uuid and m.key = 'value'"
        " order by m.value desc limit ?"
    )
    found = rows(tagged, of.study_id, _COMPARED)
    if len(found) < 2:
        raise SystemExit(f"{of.tracking_uri} holds fewer than two trials of study '{of.study}'")
    runs = quote(json.dumps([run for run, _ in found]))
    experiments = quote(json.dumps([str(found[0][1])]))
    window.open(f"{uri}/#/compare-runs?runs={runs}&experiments={experiments}{_TRAINING}", 940)
    window.wait("a plot", "document.querySelector('.js-plotly-plot .main-svg')")
    window.picture(out / "comparison.png")


def model(window: Browser, uri: str, rows: Callable[..., list[Any]], name: str, out: Path) -> None:
    """The champion's version with its alias and card."""
    alias = "select version from registered_model_aliases where name = ? and alias = 'champion'"
    found = rows(alias, name)
    if not found:
        raise SystemExit(f"no version of model '{name}' is the champion: promote the study first")
    window.open(f"{uri}/#/models/{quote(name)}/versions/{found[0][0]}?{_TRAINING[1:]}", 1130)
    window.wait("the alias", "document.body.innerText.includes('champion')")
    window.picture(out / "model.png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study's folder: runs/demo")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: docs)")
    parser.add_argument("--name", default="fdan", help="registered model (default: fdan)")
    arguments = parser.parse_args(argv)
    of, out = StudyResult.load(arguments.study), arguments.out
    database = sqlite_file(of.tracking_uri)
    if database is None or not database.exists():
        raise SystemExit(f"{of.tracking_uri}: pictures are taken of a local SQLite database")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as window:
        report(window, arguments.study, out)
        _copy(database, Path(folder) / "mlflow.db")
        with mlflow_server(Path(folder)) as server:
            comparison(window, server.uri, server.rows, of, out)
            model(window, server.uri, server.rows, arguments.name, out)
    for file in ("report.png", "comparison.png", "model.png"):
        print(out / file)
    return 0


def _copy(database: Path, to: Path) -> None:
    """Whole, also while a study writes it."""
    with (
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(to)) as target,
    ):
        source.backup(target)


if __name__ == "__main__":
    sys.exit(main())
