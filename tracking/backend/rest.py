"""MLflow's REST interface, spoken directly over one connection.

MLflow's own client needs seconds of CPU time to be imported and 1 to 5 ms of it a call, which is
taken from the trials of a small machine; this needs nothing for the first and a sixth of the second
(benchmarks/spool.py measures both). It speaks what MLflow documents as its REST API 2.0, to a plain
http:// server, and hands over to the client what is more than that: see `speaks`.
"""

from __future__ import annotations

import base64
import configparser
import http.client
import json
import math
import os
import socket
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

from tracking.backend.batching import Item
from tracking.backend.client import Client
from tracking.tags import tag_filter

TIMEOUT_S: Final = 15.0
"""For a connection and for an answer, unless MLFLOW_HTTP_REQUEST_TIMEOUT says otherwise."""

_IDLE_S: Final = 1.0
"""A connection that has rested for longer is not used again: servers close theirs after 2 s or
more, and one that closes under a request leaves open whether it was carried out."""

_BLOCK: Final = 1 << 15
"""Bytes of a file that are sent at once, within the timeout; http.client's own are 8 KB."""

_CREATE_RUN: Final = "mlflow/runs/create"

_UNDERSTOOD: Final = frozenset(
    f"MLFLOW_TRACKING_{name}" for name in ("URI", "USERNAME", "PASSWORD", "TOKEN")
)
_ELSEWHERE: Final = ("MLFLOW_WORKSPACE", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")


class RestError(Exception):
    """An answer that is an error. error_code: MLflow's word for it, or HTTP's number."""

    def __init__(self, error_code: str, text: str) -> None:
        super().__init__(text)
        self.error_code = error_code


def speaks(uri: str) -> bool:
    """Whether a tracking URI is a plain server's, and nothing in the environment asks for what
    only MLflow's client does: certificates, other ways to log in, proxies, workspaces."""
    parts = urlsplit(uri)
    if parts.scheme != "http" or parts.query or parts.fragment:
        return False
    proxied = urllib.request.getproxies().keys() & {"http", "all"}
    if proxied and not urllib.request.proxy_bypass(parts.hostname or ""):
        return False
    asked = {
        name
        for name, value in os.environ.items()
        if value and (name.startswith("MLFLOW_TRACKING_") or name in _ELSEWHERE)
    }
    return asked <= _UNDERSTOOD


class Rest:
    """An Api."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._uri = uri
        self._path = parts.path.rstrip("/") + "/api/2.0"
        self._headers = _login(parts.username, parts.password)
        timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or TIMEOUT_S)
        # Made now, connected by the first request.
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=timeout, blocksize=_BLOCK
        )
        self._used = -math.inf
        self._artifacts: dict[str, str] = {}
        self._client: Client | None = None

    def experiment(self, name: str) -> tuple[str, str] | None:
        try:
            found = self._get("experiments/get-by-name", experiment_name=name)["experiment"]
        except RestError as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return found["experiment_id"], found["lifecycle_stage"]

    def create_experiment(self, name: str, artifacts: str | None) -> str:
        body = {"name": name} | ({"artifact_location": artifacts} if artifacts else {})
        return str(self._post("experiments/create", body)["experiment_id"])

    def find_run(self, experiment: str, tags: Mapping[str, str]) -> str | None:
        body = {
            "experiment_ids": [experiment],
            "filter": tag_filter(tags),
            "run_view_type": "ALL",
            "order_by": ["attributes.start_time ASC"],
            "max_results": 1,
        }
        runs = self._post("runs/search", body).get("runs")
        return self._learn(runs[0]) if runs else None

    def create_run(self, experiment: str, name: str, start: int, tags: Mapping[str, str]) -> str:
        body = {
            "experiment_id": experiment,
            "run_name": name,
            "user_id": tags.get("mlflow.user", "unknown"),
            "start_time": start,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return self._learn(self._post("runs/create", body)["run"])

    def log(self, run_id: str, items: Sequence[Item]) -> None:
        body: dict[str, Any] = {"run_id": run_id, "metrics": [], "params": [], "tags": []}
        for item in items:
            entry: dict[str, Any] = {"key": item.key, "value": item.value}
            if item.kind == "metric":
                entry["value"] = _number(float(item.value))
                entry |= {"timestamp": item.record.time, "step": item.step}
            body[f"{item.kind}s"].append(entry)
        self._post("runs/log-batch", body)

    def update(self, run_id: str, status: str, end: int | None) -> None:
        body = {"run_id": run_id, "status": status} | ({} if end is None else {"end_time": end})
        self._post("runs/update", body)

    def send_file(self, run_id: str, file: Path, folder: str) -> None:
        if run_id not in self._artifacts:
            self._learn(self._get("runs/get", run_id=run_id)["run"])
        root = self._artifacts[run_id]
        if not root.startswith("mlflow-artifacts:/") or root.startswith("mlflow-artifacts://"):
            # Not through the server: it is for each client to reach that place.
            self._client = self._client or Client(self._uri)
            self._client.send_file(run_id, file, folder)
            return
        parts = [root.removeprefix("mlflow-artifacts:/").strip("/"), folder.strip("/"), file.name]
        path = quote("/".join(part for part in parts if part))
        # The server goes by the file's name when somebody asks for it.
        headers = {"Content-Type": "application/octet-stream"}
        self._ask("PUT", f"mlflow-artifacts/artifacts/{path}", file, headers)

    def stage(self, run_id: str) -> str:
        return str(self._get("runs/get", run_id=run_id)["run"]["info"]["lifecycle_stage"])

    def _learn(self, run: Any) -> str:
        run_id = str(run["info"]["run_id"])
        self._artifacts[run_id] = str(run["info"]["artifact_uri"])
        return run_id

    def _get(self, call: str, **query: str) -> Any:
        return json.loads(self._ask("GET", f"mlflow/{call}?{urlencode(query)}", None, {}))

    def _post(self, call: str, body: Mapping[str, Any]) -> Any:
        text = json.dumps(body, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        return json.loads(self._ask("POST", f"mlflow/{call}", text, headers))

    def _ask(
        self, method: str, path: str, body: bytes | Path | None, headers: Mapping[str, str]
    ) -> bytes:
        """The answer's body. Raises RestError, OSError, HTTPException."""
        used = time.monotonic() - self._used < _IDLE_S
        if not used:
            self._connection.close()
        try:
            try:
                response, content = self._exchange(method, path, body, headers)
            except ConnectionError:
                # Closed by the server meanwhile, or the server is gone: a new connection tells. A
                # run may have been made all the same, and is looked for before it is made again.
                if not used or path == _CREATE_RUN:
                    raise
                self._connection.close()
                response, content = self._exchange(method, path, body, headers)
        except BaseException:
            self._connection.close()  # what comes over it next would be the answer to this
            raise
        self._used = time.monotonic()
        if response.status != http.client.OK:
            raise _error(response, content)
        return content

    def _exchange(
        self, method: str, path: str, body: bytes | Path | None, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        path, headers = f"{self._path}/{path}", {**self._headers, **headers}
        if isinstance(body, Path):
            headers["Content-Length"] = str(body.stat().st_size)
            with body.open("rb") as content:
                self._connection.request(method, path, content, headers)
        else:
            self._connection.request(method, path, body, headers)
        # A server with several workers writes an answer in two pieces, and the second one when it
        # knows that the first has come: in 40 ms, unless it is told at once.
        if hasattr(socket, "TCP_QUICKACK"):  # Linux
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        response = self._connection.getresponse()
        return response, response.read()


def _login(user: str | None, password: str | None) -> dict[str, str]:
    """A URI's own user stands before the environment's, that before the credentials file's."""
    if user is None:
        kept = _kept()
        user = os.environ.get("MLFLOW_TRACKING_USERNAME") or kept.get("mlflow_tracking_username")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or kept.get(
            "mlflow_tracking_password"
        )
    else:
        user, password = unquote(user), unquote(password or "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _kept() -> Mapping[str, str]:
    """What MLflow's own file for it holds; nothing where there is none that can be read."""
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(Path("~/.mlflow/credentials").expanduser(), encoding="utf-8")
        return dict(file["mlflow"])
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}


def _number(value: float) -> float | str:
    """Protobuf's JSON has words for what JSON has not."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _error(response: http.client.HTTPResponse, content: bytes) -> RestError:
    try:
        found = json.loads(content)
        return RestError(str(found["error_code"]), str(found.get("message", "")))
    except (ValueError, KeyError, TypeError):
        # Not MLflow's: a proxy before it, or another server altogether.
        text = " ".join(content.decode("utf-8", "replace").split())
        where = response.getheader("Location")
        goes_on = f" (to {where})" if where else ""
        return RestError(str(response.status), f"HTTP {response.status}{goes_on}: {text}")
