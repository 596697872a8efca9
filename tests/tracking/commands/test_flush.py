"""`python -m tracking flush` as a user types it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fdan.lock import lock_owner
from tracking.tracker import Tracker

if TYPE_CHECKING:
    from conftest import Tables

Start = Callable[..., "subprocess.Popen[str]"]
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def flush(python: Start) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        process = python("-m", "tracking", "flush", *arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run


Flush = Callable[..., tuple[int, str, str]]


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A study whose server was never there."""
    study = tmp_path / "runs" / "demo"
    figure = tmp_path / "curve.png"
    figure.write_bytes(b"png")
    with Tracker(study / "spool", NOBODY, "fdan") as tracker:
        tracker.open_study("demo", {}, {})
        tracker.open_run("0", {"alpha": 1}, {})
        for epoch in range(1, 51):
            tracker.log_metrics("0", epoch, {"value": epoch})
        tracker.log_artifact("0", figure)
        tracker.close_run("0", "COMPLETE", "done")
    return study


def test_help_teaches(python: Start) -> None:
    out, _ = python("-m", "tracking", "flush", "--help").communicate(timeout=30)
    for word in (
        "spool",
        "runs/demo",
        "--tracking-uri",
        "exit codes",
        "default: 10",
        "Sending twice",
    ):
        assert word in " ".join(out.split())


def test_what_is_left_is_sent(left: Path, flush: Flush, database: Tables, uri: str) -> None:
    code, out, err = flush(str(left), "--wait", "1")
    assert code == 1
    assert not out
    assert (
        f"error: {NOBODY} is unavailable (Connection refused): 0 records sent, 55 wait safely"
        in err
    )
    code, out, err = flush(str(left), "--tracking-uri", uri)
    assert (code, out) == (0, f"55 records sent; {uri} has all 55\n"), err
    assert len(database.metrics()) == 50
    assert database.runs() == {"demo": "RUNNING", "trial-0000": "FINISHED"}
    assert len(list(database.path.parent.rglob("mlartifacts/*/artifacts/curve.png"))) == 1
    code, out, _ = flush(str(left / "spool"), "--tracking-uri", uri)
    assert (code, out) == (0, f"{uri} has all 55 records of {left / 'spool'}; nothing to send\n")


def test_ctrl_c_is_told_from_a_server_that_is_away(left: Path, python: Start) -> None:
    process = python("-m", "tracking", "flush", str(left), "--wait", "90")
    while lock_owner(left / "spool" / "lock") is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; the rest waits in the spool" in err and "Traceback" not in err


def test_bad_input(left: Path, tmp_path: Path, flush: Flush) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, told in [
        ((str(tmp_path / "no"),), f"{tmp_path / 'no'}: no such folder; give a study's folder"),
        ((str(tmp_path / "empty"),), "holds no tracking records"),
        ((str(left), "--tracking-uri", "mlruns"), "keeps no runs in plain folders"),
        ((str(left), "--tracking-uri", "htp://x"), "did you mean 'http'?"),
    ]:
        code, out, err = flush(*arguments)
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1
    with Tracker(left / "spool", NOBODY, "fdan"):
        code, _, err = flush(str(left))
    assert code == 2
    assert "is being written by process" in err and len(err.splitlines()) == 1


def test_a_password_is_kept_nowhere(tmp_path: Path, flush: Flush) -> None:
    spool = tmp_path / "spool"
    with Tracker(spool, "http://me:topsecret@127.0.0.1:9", "fdan") as tracker:
        tracker.open_study("s", {}, {})
        tracker.drain(0.5)
    assert b"topsecret" not in b"".join(p.read_bytes() for p in spool.rglob("*") if p.is_file())
    code, _, err = flush(str(spool))
    assert code == 2 and "password" in err and "--tracking-uri" in err and "topsecret" not in err
