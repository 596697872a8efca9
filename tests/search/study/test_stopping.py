"""A study is stopped: Ctrl-C with a real Ray behind it, and the handlers by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.study.folder import JOURNAL_FILE
from search.study.stopping import StopSignal, stop_on_signals
from search.study.storage import open_storage
from tests.search.conftest import SPACE

INTERRUPTED = """
import sys, time
from pathlib import Path
import optuna
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.optimizer.space_file import parse_space
from search.study.identity import Identity, RequestedStudy
from search.study.open import open_study
from search.study.storage import open_storage
from search.study.storage_retry import StorageRetry
from search.tune.ray_session import connected
from search.tune.grouping import TuneRun
from search.tune.tune_run import find_capacity, run_trials
from search.study.trial_controller import TrialController, TrialPolicy
from search.study.writer import StudyWriter
from search.worker.messages import EpochResult
from search.config.spec import TrialResources
from search.study.stopping import StopSignal, stop_on_signals

def say(text):
    print(text, file=sys.stderr)

def main():
    def train(assignment, report):
        if assignment.number > 1:
            report(EpochResult(1, 0.5))
            time.sleep(300)
        report(EpochResult(3, 0.5))

    folder = Path(sys.argv[1])
    folder.mkdir()
    searched = parse_space(sys.argv[2], {"lr": 0, "layers": 1, "heads": 1})
    requested = RequestedStudy("s", folder, "journal", Identity({}, "", {}, {}, 0))
    tools = make_sampler("random", searched, 0, 0), make_pruner("none", 3)
    opened = open_study(requested, open_storage(None, folder), *tools)
    stop = StopSignal()
    StorageRetry(None, say, stop.due).wait_for_connections(opened)
    writer = StudyWriter(opened, searched.suggest, "none")
    controller = TrialController(writer, TrialPolicy(epochs=3), 50)
    with stop_on_signals(stop, say), connected(None, folder, 2):
        run_trials(controller, train, TuneRun(folder, find_capacity(TrialResources()), stop, 600))
    controller.pause_all(stop.reason)
    sys.exit(stop.code)

main()
"""


def test_ctrl_c_lets_the_trials_rest(tmp_path: Path) -> None:
    """As a terminal does it: SIGINT goes to the whole process group, Ray's processes included."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    folder = tmp_path / "study"
    command = [sys.executable, str(script), str(folder), SPACE]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while _waiting(folder) < 2 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.3)
            sent = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            output = process.communicate(timeout=60)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, output
    assert time.monotonic() - sent < 30
    assert "stopping: the same command continues the study" in output
    assert "Traceback" not in output
    trials = optuna.load_study(study_name="s", storage=open_storage(None, folder)).trials
    assert [trial.state for trial in trials[:2]] == [TrialState.COMPLETE] * 2
    assert [trial.state for trial in trials[2:]] == [TrialState.RUNNING] * 2
    assert [trial.intermediate_values for trial in trials[2:]] == [{1: 0.5}] * 2
    assert not list(tmp_path.glob("**/tune"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_ask_first_and_then_insist(number: signal.Signals, code: int) -> None:
    stop, said = StopSignal(), list[str]()
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(stop, said.append):
        os.kill(os.getpid(), number)
        assert stop.due()
        assert (stop.code, stop.final) == (code, False)
        while not said:  # in a thread of its own
            time.sleep(0.01)
        assert len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _waiting(folder: Path) -> int:
    """Trials that have reported and sleep, read off the journal without opening the storage."""
    journal = folder / JOURNAL_FILE
    if not journal.exists():
        return 0
    found = 0
    for line in journal.read_text().splitlines():
        entry = json.loads(line) if line.endswith("}") else {}
        found += entry.get("step") == 1 and "intermediate_value" in entry
    return found
