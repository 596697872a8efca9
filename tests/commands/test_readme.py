"""Every command of the README, then of each page of docs/, in one folder, as a newcomer types it.

Only sizes are cut down, by options put behind the README's own; the corpora are small ones in the
published layouts.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision

from fdan.evaluation.predictions import Predictions
from tests.commands import corpora
from tests.commands.conftest import ROOT, execute, execute_anew
from tests.finished import YARDSTICK, anger, with_yardsticks
from tracking.promotion.promote import PromotionOptions, promote

README = (ROOT / "README.md").read_text()
PAGES = {"README.md": README} | {
    file.name: file.read_text() for file in sorted((ROOT / "docs").glob("*.md"))
}


def blocks(kind: str) -> list[str]:
    """The pages' blocks of one language, in the order of the pages."""
    return [
        block
        for text in PAGES.values()
        for block in re.findall(rf"```{kind}\n(.*?)```", text, flags=re.DOTALL)
    ]


COMMANDS = [line for block in blocks("bash") for line in block.strip().splitlines()]
SMALL = ["--spectrogram-size", "32", "--face-size", "32"]
ALONE = ["--workers", "1"]
"""`make search` uses all cores. The others start one process, which imports its libraries."""

SHORT = ["--epochs", "2", *SMALL, "--backbone", "resnet18", "--tuning", "frozen"]
SHORT += ["--folds", "none"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the README's paths stand for."""
    root = tmp_path_factory.mktemp("data")
    weights = root / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    return {
        "/data/SAVEE": str(corpus),
        "/data/MELD": str(corpora.meld(corpus, root / "MELD")),
        "/data/RAVDESS": str(corpora.ravdess(corpus, root / "RAVDESS")),
        "/data/FER2013/train": str(corpora.fer2013(corpus, root / "FER2013")),
        "/data/resnet18.pth": str(weights),
    }


def shrunk(words: list[str], home: Path) -> list[str]:
    """The command with options that make it small behind its own."""
    if words[:2] == ["make", "search"]:
        arguments = ["--trials", "2", "--seeds", "2", "--runs", str(home / "runs"), *SHORT]
        arguments.append("--accept-yardstick-tie")
        # The environment is there: it runs this test.
        return [
            "make",
            "-C",
            str(ROOT),
            "-o",
            ".venv/ready",
            "search",
            f"SEARCH_ARGS={shlex.join(arguments)}",
        ]
    if words[:2] == ["make", "test"]:
        return ["make", "-C", str(ROOT), "-n", "-o", ".venv/ready", "test"]
    if words[:2] == ["python", "search/run.py"]:
        weights = [] if "--weights" in words else ["--weights", "none"]
        nested = ["--nested", "2"] if "--nested" in words else []
        return [
            sys.executable,
            str(ROOT / "search/run.py"),
            *words[2:],
            *nested,
            *("--trials", "1", "--seeds", "1", "--concurrent", "1", *ALONE),
            *SHORT,
            *weights,
        ]
    if words[:4] == ["python", "-m", "fdan", "prepare"]:
        return [sys.executable, *words[1:], *SMALL, *ALONE]
    if words[:4] == ["python", "-m", "fdan", "train"]:
        return [sys.executable, *words[1:], *SHORT, "--weights", "none", *ALONE]
    if words[0] == "python":
        if words[-1] == "RUN_ID":
            words = [*words[:-1], a_trial(home)]
        return [sys.executable, *words[1:]]
    raise AssertionError(f"a page has a command that this test does not know: {words}")


def kind(line: str) -> list[str]:
    """A line's program: `python search/run.py`, or `python -m fdan` with its verb."""
    words = line.split()
    return words[: 4 if words[1:2] == ["-m"] else 2]


def a_trial(home: Path) -> str:
    """The id of a run, as one copies it from MLflow's pages."""
    with sqlite3.connect(home / "runs" / "mlflow.db") as database:
        ((run,),) = database.execute("select run_uuid from runs where name = 'trial-0000' limit 1")
    return str(run)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, home: Path, data: dict[str, str]) -> None:
    """The first of each kind by a new Python, as a newcomer's is; the others need no proof that
    its libraries can be imported."""
    first = next(line for line in COMMANDS if kind(line) == kind(command)) == command
    for path, there in data.items():
        command = command.replace(path, there)
    for name, modality in (("STORE_A", "acoustic"), ("STORE_V", "visual")):
        if name in command:
            command = command.replace(
                name, str(next((home / "runs/stores").glob(f"demo-{modality}-*")))
            )
    words = shlex.split(command)
    output = home / words.pop() if ">" in words else None
    if output is not None:
        words.remove(">")
    if words[0].endswith("mlflow"):
        opens_the_ui(words, home)
        return
    program, *words = shrunk(words, home)
    if program == "make":
        wide = {**os.environ, "COLUMNS": "100"}
        done = subprocess.run([program, *words], cwd=home, env=wide, capture_output=True, text=True)
    else:
        done = (execute_anew if first else execute)(words, home)
    if program == "make" and "worse than the yardstick" in done.stdout:
        promote_nevertheless(home / "runs" / "demo")
        return
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
    if output is not None:
        output.write_text(done.stdout)


def promote_nevertheless(study: Path) -> None:
    """Make the winner of two short trials champion, for the commands that come after, by taking
    away the yardsticks that it does not reach."""
    with_yardsticks(study, {YARDSTICK: anger(Predictions.read(study / "winner" / "test.csv"))})
    options = PromotionOptions(accept_yardstick_tie=True)
    verdict = promote(study, options)
    assert verdict.promoted, verdict.reason


def opens_the_ui(words: list[str], home: Path) -> None:
    """The UI comes up on the database that the search wrote, and shows the study's experiment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [mlflow, *words[1:], "--port", str(port)],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(address, timeout=5) as page:
                    assert page.status == 200
                break
            except OSError:
                assert server.poll() is None, "the MLflow UI ended by itself"
                time.sleep(1)
        else:
            pytest.fail("the MLflow UI did not come up in two minutes")
        wanted = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=fdan-search"
        with urllib.request.urlopen(wanted, timeout=30) as answer:
            assert b'"fdan-search"' in answer.read()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def run_python(program: str, home: Path) -> str:
    file = home / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_python_that_it_shows(home: Path) -> None:
    """After `make search`, whose model it loads and whose prepared data it searches."""
    predicting, searching = blocks("python")
    clip = home / "runs/data/demo/AudioData/CN/a01.wav"
    predicting = predicting.replace("clip.wav", str(clip)).replace(
        "model.predict", "answer = model.predict"
    )
    assert "fdan" in run_python(f"{predicting}\nprint(answer.emotion[0], answer.model[0])", home)
    small = "epochs=4, concurrent=1, spectrogram_size=32, face_size=32, backbone='resnet18'"
    assert "epochs=4" in searching
    lines = run_python(searching.replace("epochs=4", small), home).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["0", "1", "2"]
    result = json.loads((home / "runs/from-python/result.json").read_text())
    assert result["counts"]["COMPLETE"] + result["counts"].get("PRUNED", 0) == 3


def test_what_it_shows_of_servers_and_clusters_is_typed_elsewhere() -> None:
    """tests/tracking/registry/test_pyfunc_model.py types the card's commands,
    tests/cluster/test_onpremises.py those of the cluster's page."""
    (serving,) = (block for block in blocks("sh") if "mlflow models serve" in block)
    card = (ROOT / "tracking/registry/model_card.md").read_text()
    for written, means in (("{name}", "fdan"), ("{{", "{"), ("}}", "}")):
        card = card.replace(written, means)
    for line in serving.strip().splitlines()[1:]:
        assert line.removesuffix("\\").strip() in card, line
    page = (ROOT / "cluster/README.md").read_text()
    (submitting,) = (block for block in blocks("sh") if "ray submit" in block)
    for line in submitting.strip().splitlines():
        command = line.partition(" --trials")[0].replace("ray up ", "ray up -y ")
        assert command in page, line


def test_the_pages_show_what_there_is() -> None:
    """Each path of the folder tree exists, each link leads to a file, each page is found from the
    README, and `make test` runs style, types and tests."""
    tree = PAGES["code.md"].partition("```text\n")[2].partition("```")[0]
    top = ""
    for line in tree.splitlines():
        name = line.split()[0]
        top = name if not line.startswith(" ") else top
        path = ROOT / name if name == top else ROOT / top / name
        assert path.exists(), f"the tree of docs/code.md names {path}"
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (folder / link).exists(), f"{name} links to {link}"
        assert name == "README.md" or f"docs/{name}" in README, f"the README does not name {name}"
    plan = subprocess.run(
        ["make", "-C", str(ROOT), "-n", "-o", ".venv/ready", "test"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(tool in plan for tool in ("ruff check", "ruff format --check", "mypy", "pytest"))
