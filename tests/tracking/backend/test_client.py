"""What MLflow's client does with a real server and a real database, and what its errors mean."""

from __future__ import annotations

import base64
import http.server
import json
import math
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tracking.conftest import MlflowServer, Tables
from tracking.backend.batching import Item
from tracking.backend.client import connect
from tracking.backend.server import (
    Rejected,
    RunNotFound,
    Server,
    ServerUnavailable,
    ServerUnusable,
)
from tracking.record import Record

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RECORD = Record(1, 1_700_000_000_123, "metrics", "7", {})


def metric(key: str, value: float, step: int) -> Item:
    return Item(RECORD, "metric", key, value, step)


BATCH = [metric("uar", 0.5, 1)]


@pytest.fixture(params=["server", "database"])
def backend(request: pytest.FixtureRequest) -> tuple[str, Tables, Path]:
    """The URI of a backend, the tables behind it, and the folder of its artifacts."""
    if request.param == "database":
        tables: Tables = request.getfixturevalue("database")
        return tables.uri, tables, tables.path.parent
    server: MlflowServer = request.getfixturevalue("server")
    return server.uri, server.tables, server.folder


def connected(server: Server) -> tuple[MlflowClient, str]:
    """MLflow's client and the experiment's id."""
    server.find_run({})
    assert server._connected is not None
    return server._connected


def test_the_contract(backend: tuple[str, Tables, Path], tmp_path: Path) -> None:
    uri, tables, folder = backend
    name = f"experiment {uuid.uuid4().hex} / ü"
    api = Server(uri, name, folder / "files")
    assert api.page is None
    client, experiment = connected(api)
    assert connected(Server(uri, name, folder / "files"))[1] == experiment, "it is there"
    assert api.page == f"/#/experiments/{experiment}/runs?workflowType=machine_learning"

    tags = {"fdan.study_id": uuid.uuid4().hex, "fdan.trial": "7", "mlflow.user": "me"}
    wanted = {key: tags[key] for key in ("fdan.study_id", "fdan.trial")}
    assert api.find_run(wanted) is None
    run_name = f"run-{uuid.uuid4().hex}"
    run_id = api.create_run(run_name, 1_700_000_000_000, tags)
    api.create_run("younger", 1_700_000_000_001, tags)
    assert api.find_run(wanted) == run_id, "the oldest"
    assert api.find_run({**wanted, "fdan.trial": "8"}) is None

    values = {"uar": 0.1 + 0.2, "nan": math.nan, "up": math.inf, "down": -math.inf, "big": 1e300}
    batch = [metric(key, value, 2**40) for key, value in values.items()]
    batch += [Item(RECORD, "param", "alpha", "0.5 é"), Item(RECORD, "tag", "note", '"x"\n')]
    for _ in range(2):
        api.log(run_id, batch)
    rows = tables.rows(
        "select key, value, is_nan, step, timestamp from metrics where run_uuid = ?", run_id
    )
    assert len(rows) == len(values)
    found = {key: math.nan if is_nan else value for key, value, is_nan, _, _ in rows}
    assert {(step, time) for *_, step, time in rows} == {(2**40, RECORD.time)}
    assert (found["uar"], found["big"], math.isnan(found["nan"])) == (0.1 + 0.2, 1e300, True)
    assert found["up"] > 1e300 and found["down"] < -1e300, "MLflow's own way to keep infinity"
    assert tables.params(run_name) == {"alpha": "0.5 é"}
    assert tables.tags(run_name)["note"] == '"x"\n'
    (user,) = tables.rows("select user_id, status from runs where run_uuid = ?", run_id)
    assert user == ("me", "RUNNING")

    api.set_status(run_id, "KILLED", 1_700_000_009_000)
    query = "select status, end_time from runs where run_uuid = ?"
    assert tables.rows(query, run_id) == [("KILLED", 1_700_000_009_000)]
    api.set_status(run_id, "RUNNING", None)
    assert tables.rows(query, run_id)[0][0] == "RUNNING"

    for name in ("a curve & more+1.png", "kürve (2).bin"):
        file = tmp_path / name
        file.write_bytes(bytes(range(256)) * 300)
        for where in ("", "figures/last one"):
            api.send_file(run_id, file, where)
        sent = {path.parent.name for path in folder.rglob(name)}
        assert sent == {"artifacts", "last one"}
        assert all(path.read_bytes() == file.read_bytes() for path in folder.rglob(name))

    assert not api.deleted(run_id)
    client.delete_run(run_id)
    assert api.deleted(run_id)
    assert api.find_run(wanted) == run_id, "deleted ones included"


def test_errors_mean_the_same_everywhere(backend: tuple[str, Tables, Path]) -> None:
    uri, _, folder = backend
    api = Server(uri, uuid.uuid4().hex, folder / "files")
    run_id = api.create_run("run", 1, {})
    api.log(run_id, [Item(RECORD, "param", "alpha", "1")])
    assert api.accepts(run_id)
    for batch, means in (
        ([metric("../x", 0.5, 1)], Rejected),
        ([Item(RECORD, "param", "alpha", "2")], Rejected),
    ):
        with pytest.raises(means, match=r"\w"):
            api.log(run_id, batch)
        assert not api.accepts(run_id, batch)
    gone = "0" * 32
    for action in (
        lambda: api.log(gone, BATCH),
        lambda: api.set_status(gone, "FINISHED", 5),
        lambda: api.deleted(gone),
    ):
        with pytest.raises(RunNotFound, match=gone):
            action()
    assert not api.accepts(gone)
    client, _ = connected(api)
    api._connected = client, "987654"
    with pytest.raises(ServerUnavailable, match=r"is gone: .*987654"):
        api.create_run("run", 1, {})
    assert api.create_run("run", 1, {}) != run_id, "it connects anew"


def test_an_experiment_that_was_deleted_is_told(backend: tuple[str, Tables, Path]) -> None:
    uri, _, folder = backend
    name = uuid.uuid4().hex
    client, experiment = connected(Server(uri, name, folder / "files"))
    client.delete_experiment(experiment)
    with pytest.raises(ServerUnavailable, match=f"restore --experiment-id {experiment}"):
        Server(uri, name, folder / "files").create_run("run", 1, {})


def test_two_makers_of_one_experiment_share_it(
    database: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one's look at it comes before the first one's making, its making after."""
    from mlflow.tracking import MlflowClient

    find, looks = MlflowClient.get_experiment_by_name, 0

    def find_late(client: MlflowClient, name: str) -> object:
        nonlocal looks
        looks += 1
        return None if looks == 1 else find(client, name)

    first = connected(Server(database.uri, "one", database.path.parent / "files"))
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", find_late)
    second = connected(Server(database.uri, "one", database.path.parent / "files"))
    assert first[1] == second[1] and looks == 2


def test_artifacts_that_the_server_does_not_pass_on(server: MlflowServer, tmp_path: Path) -> None:
    """Its clients reach the place themselves; how, MLflow's own knows."""
    place, name = tmp_path / "elsewhere", uuid.uuid4().hex
    connect(server.uri).create_experiment(name, place.as_uri())
    api = Server(server.uri, name, tmp_path / "unused")
    run_id = api.create_run("run", 1, {})
    file = tmp_path / "curve.png"
    file.write_bytes(b"png")
    api.send_file(run_id, file, "figures")
    assert (place / run_id / "artifacts" / "figures" / "curve.png").read_bytes() == b"png"


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers as it is told to, and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str, str | None]]
    connections: list[object]
    answers: list[tuple[int, bytes] | None]
    """None: hang up without an answer."""

    hang_up = False
    """Close the connection after the next answer, without a word of it."""
    closed: threading.Event

    def setup(self) -> None:
        self.connections.append(self)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.closed.set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.path, body.decode(), self.headers["Authorization"]))
        answer = self.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])
        self.close_connection = self.close_connection or self.hang_up

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[tuple[type[Fake], str]]:
    class Mine(Fake):
        asked: list[tuple[str, str, str | None]] = []  # noqa: RUF012
        answers: list[tuple[int, bytes] | None] = []  # noqa: RUF012
        connections: list[object] = []  # noqa: RUF012
        closed = threading.Event()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Mine, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


EXPERIMENT = (200, b'{"experiment": {"experiment_id": "3", "lifecycle_stage": "active"}}')
RUN = json.dumps({"run": {"info": {"run_id": "7", "artifact_uri": "x"}}}).encode()


def test_a_request_is_not_repeated_within_a_call(fake: tuple[type[Fake], str]) -> None:
    """A server may die of a request after it has carried it out, and a run that is made twice stays
    two runs: the sender looks for it before it asks again."""
    told, host = fake
    api = Server(f"http://{host}/mlflow/", "fdan", Path())
    told.answers[:] = [EXPERIMENT, (200, b"{}"), None, (503, b"busy"), (200, RUN)]
    api.log("7", BATCH)
    for reason in ("Remote end closed connection|Connection reset", "HTTP 503"):
        with pytest.raises(ServerUnavailable, match=reason):
            api.create_run("run", 1, {})
    assert api.create_run("run", 1, {}) == "7"
    _, log, *create = [path for path, _, _ in told.asked]
    assert log == "/mlflow/api/2.0/mlflow/runs/log-batch"
    assert create == ["/mlflow/api/2.0/mlflow/runs/create"] * 3


def test_a_connection_that_was_closed_at_rest_is_opened_again(
    fake: tuple[type[Fake], str],
) -> None:
    told, host = fake
    api = Server(f"http://{host}", "fdan", Path())
    told.answers[:] = [EXPERIMENT, *[(200, b"{}")] * 4]
    for _ in range(2):
        api.log("7", BATCH)
    assert len(told.connections) == 1
    told.hang_up = True
    api.log("7", BATCH)
    told.closed.wait(10)
    api.log("7", BATCH)
    assert len(told.connections) == 2


def test_mlflow_gives_up_soon_and_no_other_process_is_told_to(
    python: Callable[..., subprocess.Popen[str]],
) -> None:
    """A user's own timeout wins; a retry within a call could make a run twice."""
    told = python(
        "-c",
        "import os\n"
        "before = dict(os.environ)\n"
        "from tracking.backend.client import connect\n"
        "from tracking.uri import check_uri\n"
        "connect('http://127.0.0.1:9')\n"
        "print(sorted(key for key in os.environ.keys() - before if 'HTTP' in key))\n"
        "from mlflow.environment_variables import *\n"
        "print(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get())\n"
        "os.environ['MLFLOW_HTTP_REQUEST_MAX_RETRIES'] = '5'\n"
        "connect('http://127.0.0.1:9')\n"
        "os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'] = '7'\n"
        "print(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get())",
    )
    out, err = told.communicate(timeout=120)
    assert out.splitlines() == ["[]", "0 15", "0 7"], err


@pytest.mark.parametrize(
    ("status", "body", "means", "text"),
    [
        (400, b'{"error_code": "BAD_REQUEST", "message": "no"}', Rejected, "no"),
        (413, b"<html>Request Entity Too Large</html>", Rejected, "Too Large"),
        (
            500,
            b'{"error_code": "INTERNAL_ERROR", "message": "oops"}',
            ServerUnavailable,
            "HTTP 500",
        ),
        (503, b"<html>busy</html>", ServerUnavailable, "HTTP 503"),
        (403, b"Invalid Host header", ServerUnavailable, "HTTP 403: Invalid Host header"),
        (401, b"who is it", ServerUnusable, "HTTP 401: who is it: it wants credentials"),
        (404, b"not an MLflow", ServerUnavailable, "HTTP 404"),
        (302, b"", ServerUnavailable, "HTTP 302"),
        (200, b"<html>log in</html>", ServerUnavailable, "not in a valid JSON format"),
        (
            400,
            b'{"error_code": "BAD_REQUEST", "message": "(psycopg2.InterfaceError) connection '
            b'already closed (Background on this error at: https://sqlalche.me/e/20/rvf5)"}',
            ServerUnavailable,
            "already closed",
        ),
        (
            400,
            b'{"error_code": "BAD_REQUEST", "message": "(psycopg2.errors.NumericValueOutOfRange) '
            b'(Background on this error at: https://sqlalche.me/e/20/9h9h)"}',
            Rejected,
            "OutOfRange",
        ),
    ],
)
def test_what_an_answer_means(
    fake: tuple[type[Fake], str], status: int, body: bytes, means: type[Exception], text: str
) -> None:
    told, host = fake
    told.answers[:] = [EXPERIMENT, (status, body)]
    server = Server(f"http://{host}", "fdan", Path())
    with pytest.raises(means, match=text):
        server.log("7", BATCH)


@pytest.mark.parametrize(
    ("user", "environment", "header"),
    [
        ("", {}, None),
        ("me:s%40cret@", {}, "Basic " + base64.b64encode(b"me:s@cret").decode()),
        (
            "",
            {"MLFLOW_TRACKING_USERNAME": "you", "MLFLOW_TRACKING_PASSWORD": "pass:word"},
            "Basic " + base64.b64encode(b"you:pass:word").decode(),
        ),
        ("", {"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_logging_in(
    fake: tuple[type[Fake], str],
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    environment: dict[str, str],
    header: str | None,
) -> None:
    told, host = fake
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    told.answers[:] = [EXPERIMENT, (200, RUN)]
    Server(f"http://{user}{host}", "fdan", Path()).create_run("run", 1, {})
    assert {sent for _, _, sent in told.asked} == {header}
