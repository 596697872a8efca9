"""Servers on which nothing can be registered: promotion says so before it makes anything, and a
study's records go there all the same."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from search.__main__ import main as search_main
from tests.finished import EXPERIMENT, link
from tracking.__main__ import main
from tracking.tracker import Tracker

if TYPE_CHECKING:
    from conftest import MlflowServer, Tables

pytestmark = pytest.mark.usefixtures("cache")

HTML = ("text/html", b"<!doctype html>\n<title>404 Not Found</title>")  # MLflow 2's own
JSON = ("application/json", b'{"error": {"code": "NotFound", "statusCode": 404}}')  # a cloud's


@pytest.fixture
def old_server(server: MlflowServer) -> Iterator[Callable[[tuple[str, bytes]], str]]:
    """Address of a real server behind a proxy that knows no logged models, as before MLflow 3."""
    started: list[ThreadingHTTPServer] = []

    def start(answer: tuple[str, bytes]) -> str:
        class Proxy(BaseHTTPRequestHandler):
            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                if "/logged-models" in self.path:
                    self.reply(404, *answer)
                    return
                wanted = urllib.request.Request(
                    server.uri + self.path,
                    body,
                    {"Content-Type": self.headers.get("Content-Type") or ""},
                    method=self.command,
                )
                try:
                    with urllib.request.urlopen(wanted, timeout=60) as found:
                        self.reply(found.status, found.headers["Content-Type"], found.read())
                except urllib.error.HTTPError as error:
                    self.reply(error.code, error.headers["Content-Type"], error.read())

            def reply(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Proxy))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield start
    for proxy in started:
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("case", [(HTML, []), (HTML, ["--dry-run"]), (JSON, [])])
def test_a_server_of_mlflow_2(
    old_server: Callable[[tuple[str, bytes]], str],
    server: MlflowServer,
    case: tuple[tuple[str, bytes], list[str]],
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer, options = case
    uri, study = old_server(answer), link(finished / "good", tmp_path / "good")
    before = server.tables.rows("select run_uuid from runs")
    assert main(["promote", str(study), "--tracking-uri", uri, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {uri} is too old to register a model") and "MLflow 3" in line
    assert server.tables.rows("select run_uuid from runs") == before
    assert not server.tables.rows("select * from registered_models")
    assert not server.tables.rows("select * from logged_models")


def test_a_server_of_mlflow_2_tracks_runs(
    old_server: Callable[[tuple[str, bytes]], str], server: MlflowServer, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("noted")
    with Tracker(tmp_path / "spool", old_server(HTML), "on an old server") as tracker:
        tracker.open_study("on-an-old-server", {"sampler": "tpe"}, {})
        tracker.log_metrics("study", 1, {"value": 0.5})
        tracker.log_artifact("study", tmp_path / "note.txt", "study")
        tracker.close_run("study", "COMPLETE", "done")
        assert tracker.drain(60), tracker.sender.reason
    ours = server.tables.rows("select status from runs where name = ?", "on-an-old-server")
    assert ours == [("FINISHED",)]
    assert server.tables.metrics()["on-an-old-server", "value", 1] == [0.5]


def test_an_experiment_in_the_trash(
    database: Tables, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report and promotion say the same, and the command that they name brings it back."""
    from mlflow.tracking import MlflowClient

    study, client = link(finished / "good", tmp_path / "good"), MlflowClient(database.uri)
    number = client.create_experiment(EXPERIMENT, (tmp_path / "artifacts").as_uri())
    client.delete_experiment(number)
    assert main(["promote", str(study), "--tracking-uri", database.uri]) == 2
    (refused,) = capsys.readouterr().err.splitlines()
    assert main(["report", str(study), "--tracking-uri", database.uri, "--open", "no"]) == 0
    (unlogged,) = capsys.readouterr().err.splitlines()
    assert refused.removeprefix("error: ") == unlogged.removeprefix("not logged to MLflow: ")
    assert f"experiment '{EXPERIMENT}' was deleted at {database.uri}; " in refused
    assert not database.rows("select * from registered_models")

    command = refused.partition("bring it back with: ")[2]
    mlflow = shlex.quote(str(Path(sys.executable).with_name("mlflow")))
    command = command.replace(" mlflow ", f" {mlflow} ")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert client.get_experiment(number).lifecycle_stage == "active"


@pytest.mark.parametrize(
    "arguments",
    [
        ["champion"],
        ["promote", "{study}"],
        ["report", "{study}", "--open", "no"],
        ["flush", "{study}"],
        ["rerun", "0123456789abcdef0123456789abcdef"],
    ],
)
def test_a_database_of_another_mlflow(
    database: Tables,
    finished: Path,
    tmp_path: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whole words, the command that mends it, and no hope that waiting would."""
    import sqlite3

    study = link(finished / "good", tmp_path / "good")
    with Tracker(study / "spool", "http://127.0.0.1:9", EXPERIMENT) as tracker:
        tracker.open_study("good", {}, {})
    with sqlite3.connect(database.path) as connection:
        connection.execute("update alembic_version set version_num = '0123456789ab'")
    words = [word.format(study=study) for word in arguments]
    command = search_main if words[0] == "rerun" else main
    code = command([*words, "--tracking-uri", database.uri])
    line = capsys.readouterr().err.splitlines()[-1]
    assert code == {"report": 0, "flush": 1}.get(words[0], 2), line
    assert "schema 0123456789ab, MLflow" in line and "install its version here" in line
    assert f"mlflow db upgrade {database.uri}" in line
    assert "..." not in line and "once it is back" not in line and "away" not in line
