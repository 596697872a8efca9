"""Commands in forks of a process that has imported the libraries, for tests that start many.

A new Python imports torch, Ray, MLflow and Optuna for up to ten seconds before a command does what
the test is about. A fork of a process that has them starts at once, and is in all else what a new
process is: `__main__`, arguments, environment, working folder, standard streams, exit code, and
what happens at exit. It proves nothing about imports. `runs_warm` therefore refuses what may depend
on them: other programs than this project's, and an environment that differs where a library may
read it when it is imported. And each command is started anew by at least one test: those of the
README (tests/commands/test_readme.py).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
RUN: Final = str(ROOT / "search" / "run.py")
PACKAGES: Final = ("fdan", "search", "tracking")

LATER: Final = frozenset(
    {
        *("COLUMNS", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "RAY_ADDRESS", "TORCH_HOME"),
        *("http_proxy", "https_proxy", "PYTEST_CURRENT_TEST"),
    }
)
"""Variables that are read when they are used, and not when something is imported."""

# What the packages import only when they need it.
_LIBRARIES: Final = (
    *("torchvision.models", "ray.tune", "optuna.importance", "matplotlib", "rich.progress"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.pyfunc", "alembic.command"),
    *("sklearn.manifold", "sklearn.svm", "sklearn.linear_model", "cv2", "av", "soundfile"),
)

_LARGEST: Final = 2**18  # bytes of a message: arguments and environment


def runs_warm(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork stands for a new process with these arguments and this environment."""
    of_ours = words[0] == RUN or (words[0] == "-m" and words[1] in PACKAGES)
    before = _at_start()
    changed = {k for k in {*before, *environment} if before.get(k) != environment.get(k)}
    return of_ours and changed <= LATER


def run_warm(
    words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run does it with `sys.executable` before the words, its output captured."""
    with contextlib.ExitStack() as stack:
        readers, writers = [], []
        for _ in range(2):
            reader, writer = os.pipe()
            readers.append(_Reader(reader))
            writers.append(writer)
            stack.callback(readers[-1].join)
        request = json.dumps({"words": [*words], "cwd": str(cwd), "environment": {**environment}})
        connection = _server()
        try:
            socket.send_fds(connection, [request.encode()], writers)
        finally:
            for writer in writers:
                os.close(writer)
        pid = int(connection.recv(_LARGEST))
        connection.settimeout(timeout)
        try:
            status = int(connection.recv(_LARGEST))
        except TimeoutError:
            os.kill(pid, 9)
            connection.settimeout(None)
            connection.recv(_LARGEST)
            raise subprocess.TimeoutExpired([*words], timeout) from None
        finally:
            connection.settimeout(None)
    out, err = (reader.text for reader in readers)
    return subprocess.CompletedProcess([sys.executable, *words], status, out, err)


class _Reader(threading.Thread):
    """Reads a pipe to its end, which is when the last process that has it has ended."""

    def __init__(self, pipe: int) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.text = ""
        self.start()

    def run(self) -> None:
        with os.fdopen(self._pipe, encoding="utf-8") as file:
            self.text = file.read()


@functools.cache
def _at_start() -> dict[str, str]:
    """The environment in which the server was started."""
    return dict(os.environ)


@functools.cache
def _server() -> socket.socket:
    """A connection to this process's server, which ends when the connection does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=_at_start(),
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
        )
    return ours


@dataclass(frozen=True)
class _Command:
    words: list[str]
    cwd: str
    environment: dict[str, str]

    def run(self) -> None:
        """As the interpreter does it."""
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.modules["numpy"].random.seed()
        sys.orig_argv[1:] = self.words
        if self.words[0] == "-m":
            sys.path.insert(0, self.cwd)
            sys.argv[:] = self.words[1:]
            runpy.run_module(self.words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(self.words[0]).parent))
            sys.argv[:] = self.words
            runpy.run_path(self.words[0], run_name="__main__")


def _serve(connection: socket.socket) -> _Command:
    """Fork for each request and answer with the process's number and its exit code. Returns in the
    forks alone, with the command that they are."""
    while True:
        request, files, *_ = socket.recv_fds(connection, _LARGEST, 2)
        if not request:
            os._exit(0)
        if (pid := os.fork()) == 0:
            connection.close()
            for number, file in enumerate(files, 1):
                os.dup2(file, number)
                os.close(file)
            return _Command(**json.loads(request))
        for file in files:
            os.close(file)
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _import_all() -> None:
    """Import what commands import, and start no thread, which a fork would not have."""
    import_module("fdan.machine.cpus").use_all_cpus()  # torch reads it, as in each command
    for name in _LIBRARIES:
        import_module(name)
    for package in PACKAGES:
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not module.name.endswith((".run", "_main", ".worker", ".__main__")):
                import_module(module.name)
    assert threading.active_count() == 1, threading.enumerate()


def _end(code: list[int]) -> None:
    """The end of a fork, without three seconds in which all that was imported is taken apart."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code[0])


def _exit_code(left: BaseException) -> int:
    """What Python exits with after this exception, apart from signals."""
    if not isinstance(left, SystemExit):
        return 1
    return left.code if isinstance(left.code, int) else int(left.code is not None)


if __name__ == "__main__":
    exit_code = [0]
    atexit.register(_end, exit_code)  # before all others, so that it is the last one
    del sys.path[0]  # this file's folder
    _import_all()
    gc.collect()
    gc.freeze()
    command = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        command.run()
    except BaseException as error:
        exit_code[0] = _exit_code(error)
        raise
