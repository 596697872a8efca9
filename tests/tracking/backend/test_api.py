"""One contract, each way to MLflow: REST spoken directly, MLflow's client to the same server, and
MLflow's client to a database. And which way is taken when."""

from __future__ import annotations

import base64
import http.server
import json
import math
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fdan.errors import FdanError
from tests.tracking.conftest import MlflowServer, Tables
from tracking import uri as uri_module
from tracking.backend import rest as rest_module
from tracking.backend.api import Api
from tracking.backend.batching import Item
from tracking.backend.client import Client
from tracking.backend.rest import Rest, RestError, speaks
from tracking.backend.server import Rejected, Server, ServerUnavailable
from tracking.outbox.record import Record

RECORD = Record(1, 1_700_000_000_123, "metrics", "7", {})


def metric(key: str, value: float, step: int) -> Item:
    return Item(RECORD, "metric", key, value, step)


def code(error: BaseException) -> str:
    return str(getattr(error, "error_code", ""))


@pytest.fixture(params=["rest", "client", "database"])
def way(request: pytest.FixtureRequest) -> tuple[Api, Tables, Path]:
    """An Api, the tables behind it, and the folder of its artifacts."""
    if request.param == "database":
        tables: Tables = request.getfixturevalue("database")
        return Client(tables.uri), tables, tables.path.parent
    server: MlflowServer = request.getfixturevalue("server")
    api = Rest(server.uri) if request.param == "rest" else Client(server.uri)
    return api, server.tables, server.folder


def test_the_contract(way: tuple[Api, Tables, Path], tmp_path: Path) -> None:
    api, tables, folder = way
    name = f"experiment {uuid.uuid4().hex} / ü"
    assert api.experiment(name) is None
    place = None if folder.joinpath("server.log").exists() else (folder / "files").as_uri()
    experiment = api.create_experiment(name, place)
    assert api.experiment(name) == (experiment, "active")

    tags = {"fdan.study_id": uuid.uuid4().hex, "fdan.trial": "7", "mlflow.user": "me"}
    wanted = {key: tags[key] for key in ("fdan.study_id", "fdan.trial")}
    assert api.find_run(experiment, wanted) is None
    run_name = f"run-{uuid.uuid4().hex}"
    run_id = api.create_run(experiment, run_name, 1_700_000_000_000, tags)
    api.create_run(experiment, "younger", 1_700_000_000_001, tags)
    assert api.find_run(experiment, wanted) == run_id, "the oldest"
    assert api.find_run(experiment, {**wanted, "fdan.trial": "8"}) is None

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

    api.update(run_id, "KILLED", 1_700_000_009_000)
    query = "select status, end_time from runs where run_uuid = ?"
    assert tables.rows(query, run_id) == [("KILLED", 1_700_000_009_000)]
    api.update(run_id, "RUNNING", None)
    assert tables.rows(query, run_id)[0][0] == "RUNNING"

    for name in ("a curve & more+1.png", "kürve (2).bin"):
        file = tmp_path / name
        file.write_bytes(bytes(range(256)) * 300)
        for where in ("", "figures/last one"):
            api.send_file(run_id, file, where)
        sent = {path.parent.name for path in folder.rglob(name)}
        assert sent == {"artifacts", "last one"}
        assert all(path.read_bytes() == file.read_bytes() for path in folder.rglob(name))

    assert api.stage(run_id) == "active"
    Client(tables.uri)._client.delete_run(run_id)
    assert api.stage(run_id) == "deleted"
    assert api.find_run(experiment, wanted) == run_id, "deleted ones included"


def test_errors_have_mlflows_codes(way: tuple[Api, Tables, Path]) -> None:
    api, _, folder = way
    place = None if folder.joinpath("server.log").exists() else (folder / "files").as_uri()
    name = uuid.uuid4().hex
    experiment = api.create_experiment(name, place)
    run_id = api.create_run(experiment, "run", 1, {})
    api.log(run_id, [Item(RECORD, "param", "alpha", "1")])
    for action, told in (
        (lambda: api.create_experiment(name, place), "RESOURCE_ALREADY_EXISTS"),
        (lambda: api.log("0" * 32, [metric("uar", 0.5, 1)]), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: api.update("0" * 32, "FINISHED", 5), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: api.stage("0" * 32), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: api.create_run("987654", "run", 1, {}), "RESOURCE_DOES_NOT_EXIST"),
        (lambda: api.log(run_id, [metric("../x", 0.5, 1)]), "INVALID_PARAMETER_VALUE"),
        (
            lambda: api.log(run_id, [Item(RECORD, "param", "alpha", "2")]),
            "INVALID_PARAMETER_VALUE",
        ),
    ):
        with pytest.raises(Exception) as caught:
            action()
        assert code(caught.value) == told
        assert str(caught.value)


def test_artifacts_that_the_server_does_not_pass_on(server: MlflowServer, tmp_path: Path) -> None:
    """Its clients reach the place themselves; how, MLflow's own knows."""
    api = Rest(server.uri)
    place = tmp_path / "elsewhere"
    experiment = api.create_experiment(uuid.uuid4().hex, place.as_uri())
    run_id = api.create_run(experiment, "run", 1, {})
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

    def setup(self) -> None:
        self.connections.append(self)
        super().setup()

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

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[tuple[type[Fake], str]]:
    class Mine(Fake):
        asked: list[tuple[str, str, str | None]] = []  # noqa: RUF012
        answers: list[tuple[int, bytes] | None] = []  # noqa: RUF012
        connections: list[object] = []  # noqa: RUF012

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Mine, f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


RUN = json.dumps({"run": {"info": {"run_id": "7", "artifact_uri": "x"}}}).encode()


def test_a_request_is_repeated_only_if_that_is_harmless(fake: tuple[type[Fake], str]) -> None:
    """A connection that was closed while it rested looks like a server that died of the request. A
    run that is made twice stays two runs."""
    told, host = fake
    api = Rest(f"http://{host}/mlflow/")
    told.answers[:] = [(200, b"{}"), None, (200, b"{}")]
    api.update("7", "RUNNING", None)
    api.update("7", "FINISHED", 5)
    assert [path for path, _, _ in told.asked] == ["/mlflow/api/2.0/mlflow/runs/update"] * 3
    assert told.asked[1] == told.asked[2]
    told.asked.clear()
    told.answers[:] = [(200, b"{}"), None, (200, RUN)]
    api.update("7", "RUNNING", None)
    with pytest.raises(ConnectionError):
        api.create_run("1", "run", 1, {})
    assert len(told.asked) == 2
    assert api.create_run("1", "run", 1, {}) == "7"
    told.asked.clear()
    told.answers[:] = [None]
    with pytest.raises(ConnectionError):  # on a new connection nothing was closed at rest
        Rest(f"http://{host}").update("7", "RUNNING", None)
    assert len(told.asked) == 1


def test_a_connection_is_used_again_while_it_is_warm(
    fake: tuple[type[Fake], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, host = fake
    api = Rest(f"http://{host}")
    told.answers[:] = [(200, b"{}")] * 4
    api.update("7", "RUNNING", None)
    api.update("7", "RUNNING", None)
    assert len(told.connections) == 1
    monkeypatch.setattr(rest_module, "_IDLE_S", 0.0)
    api.update("7", "RUNNING", None)
    assert len(told.connections) == 2


@pytest.mark.parametrize(
    ("status", "body", "means", "text"),
    [
        (400, b'{"error_code": "BAD_REQUEST", "message": "no"}', Rejected, "no"),
        (413, b"<html>Request Entity Too Large</html>", Rejected, "Too Large"),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "oops"}', ServerUnavailable, "oops"),
        (503, b"<html>busy</html>", ServerUnavailable, "HTTP 503: <html>busy"),
        (403, b"Invalid Host header", ServerUnavailable, "HTTP 403: Invalid Host header"),
        (404, b"not an MLflow", ServerUnavailable, "HTTP 404"),
        (302, b"", ServerUnavailable, "HTTP 302"),
        (200, b"<html>log in</html>", ServerUnavailable, "Expecting value"),
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
    found = json.dumps({"experiment": {"experiment_id": "3", "lifecycle_stage": "active"}})
    told.answers[:] = [(200, found.encode()), (status, body)]
    server = Server(f"http://{host}", "fdan", Path())
    with pytest.raises(means, match=text):
        server.log("7", [metric("uar", 0.5, 1)])


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
@pytest.mark.parametrize("way", [Rest, Client])
def test_logging_in_is_as_mlflows_client_does_it(
    fake: tuple[type[Fake], str],
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[str], Api],
    user: str,
    environment: dict[str, str],
    header: str | None,
) -> None:
    told, host = fake
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert speaks(f"http://{user}{host}")
    told.answers[:] = [(200, RUN)] * 3
    way(f"http://{user}{host}").create_run("1", "run", 1, {})
    assert {sent for _, _, sent in told.asked} == {header}


def test_what_needs_mlflows_client_goes_through_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    plain = "http://mlflow.example:5000/prefix"
    assert speaks(plain)
    for other in ("https://mlflow.example", "sqlite:////tmp/x.db", "postgresql://h/db"):
        assert not speaks(other)
    for name, value in (
        ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "/cert"),
        ("MLFLOW_TRACKING_AUTH", "kerberos"),
        ("MLFLOW_TRACKING_AWS_SIGV4", "true"),
        ("MLFLOW_WORKSPACE", "team"),
        ("http_proxy", "http://proxy:3128"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert not speaks(plain), name
    with monkeypatch.context() as patched:
        patched.setenv("http_proxy", "http://proxy:3128")
        patched.setenv("no_proxy", "mlflow.example")
        patched.setenv("MLFLOW_TRACKING_URI", plain)
        assert speaks(plain)


def test_it_logs_in_as_mlflows_client_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The URI's own user first, then the environment, then MLflow's file for it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rest_module._login(None, None) == {}
    credentials = tmp_path / ".mlflow" / "credentials"
    credentials.parent.mkdir()
    for damaged in (b"[other]\n", b"no section", b"\xff\xfe"):
        credentials.write_bytes(damaged)
        assert rest_module._login(None, None) == {}
    credentials.write_text(
        "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = 100%secret\n"
    )

    def said(user: str | None = None, password: str | None = None) -> str:
        kind, pair = rest_module._login(user, password)["Authorization"].split()
        assert kind == "Basic"
        return base64.b64decode(pair).decode()

    assert said() == "ann:100%secret"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "bob")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other")
    assert said() == "bob:other"
    assert said("eve", "p%40ss") == "eve:p@ss"


def test_a_postgresql_names_the_driver_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"psycopg2"}
    monkeypatch.setattr(uri_module, "find_spec", lambda name: name if name in there else None)
    assert uri_module.with_driver("postgresql://me@h/db") == "postgresql+psycopg2://me@h/db"
    there.add("psycopg")
    assert uri_module.with_driver("postgresql://me@h/db") == "postgresql+psycopg://me@h/db"
    for other in ("postgresql+psycopg2://me@h/db", "sqlite:////tmp/x.db", "http://h"):
        assert uri_module.with_driver(other) == other
    there.clear()
    with pytest.raises(FdanError, match=r"'postgresql://me:\*\*\*@h/db': no driver .* pip install"):
        uri_module.check_uri("postgresql://me:secret@h/db")


def test_an_error_keeps_its_words() -> None:
    error = RestError("BAD_REQUEST", "what was wrong")
    assert (error.error_code, str(error)) == ("BAD_REQUEST", "what was wrong")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="Linux can say it")
def test_an_answer_in_two_pieces_is_not_waited_for() -> None:
    """As MLflow's server with several workers sends it, over a connection that is kept."""
    content = b'{"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            while b"\r\n\r\n" in connection.recv(65536):
                connection.send(head % len(content))
                connection.send(content)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        api = Rest(f"http://127.0.0.1:{listening.getsockname()[1]}")
        took = []
        for _ in range(21):
            began = time.perf_counter()
            assert api.experiment("x") == ("1", "active")
            took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.02
