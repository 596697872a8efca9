"""A user who presses Ctrl-C a second time wants out, and loses nothing by it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.commands.test_survival import FLAGS, Home

pytestmark = pytest.mark.long


@pytest.fixture(params=[0.1, 3.0], ids=str)
def pause(request: pytest.FixtureRequest) -> float:
    """Seconds between the two: while Tune is left, while Ray ends, while figures are drawn."""
    seconds: float = request.param
    return seconds


@pytest.fixture
def home(corpus: Path, with_prepared: None, tmp_path: Path) -> Iterator[Home]:
    # Trials that are not over before MLflow's tables are made.
    made = Home(tmp_path, [*FLAGS, "--task", f"demo:{corpus}", "--epochs", "2000"])
    yield made
    for number in made.processes():
        os.kill(number, signal.SIGKILL)


def test_a_second_ctrl_c_leaves_at_once_and_nothing_running(home: Home, pause: float) -> None:
    home.start()
    home.wait_for(lambda: home.epochs() >= 4)
    # The sender has been there, so that runs are RUNNING in MLflow.
    home.wait_for(lambda: (home.path / "runs" / "mlflow.db").exists() and home.runs())
    process = home.process
    assert process is not None
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(pause)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    code, _, said = home.ends()
    # A shell shows 130 for both: the second one may come while the interpreter goes down.
    assert code in (130, -signal.SIGINT), said
    assert time.monotonic() - asked < 30
    assert "Traceback" not in said, said
    assert "stopping: the same command continues the study" in said
    assert {trial.state for trial in home.trials()} == {TrialState.RUNNING}
    states = {(status, state) for status, state, _ in home.runs().values()}
    assert states == {("KILLED", "PAUSED")}
    assert home.left_behind() == {}
