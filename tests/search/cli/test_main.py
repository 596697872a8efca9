"""The command as a user starts it, and one whole search of a small demo corpus."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fdan.corpora import demo, read
from fdan.data.open_task import DataConfig, plan_task
from fdan.data.settings import make_settings
from fdan.emotions import EMOTIONS
from fdan.inference.model_folder import read_model
from fdan.lock import Lock
from fdan.training.checkpoint import Checkpoint
from search.cli import main as command
from search.cli.main import parse
from search.config.spec import StudySpec, resolve
from search.formatting import parse_time
from search.optimizer.pruners import make_pruner
from search.optimizer.samplers import make_sampler
from search.study.events import REASON
from search.study.folder import LOCK_FILE, record_start
from search.study.identity import RequestedStudy
from search.study.open import open_study
from search.study.status import best_trial
from search.study.storage import open_storage, open_storage_read_only
from tests.search import conftest

ROOT = Path(__file__).parents[3]
RUN = ROOT / "search" / "run.py"
SMALL = [*conftest.SMALL, "--epochs", "3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """Prepared data and an MLflow database that several studies share."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copyfile(template, folder / "mlflow.db")
    return folder


MakeSpec = Callable[..., StudySpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    def run(*flags: str) -> StudySpec:
        return resolve(parse(["--runs", str(tmp_path / "runs"), *flags]).options)

    return run


def errors(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What a command line that is refused says on stderr."""
    try:
        code = command.main(list(flags))
    except SystemExit as left:  # argparse's way out
        code = left.code
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trails", "4"], "did you mean '--trials'"),
        (["--trials=0"], "trials = 0: must be at least 1"),
        (["--sampler", "tpo"], "did you mean 'tpe'"),
        (["--pruner", "medain"], "did you mean 'median'"),
        (["--space", "papr"], "did you mean 'paper'"),
        (["--space", "missing.toml"], "no such file"),
        (["--backbone", "resnet19"], "did you mean 'resnet18'"),
        (["--time-budget", "soon"], "such as 90s, 30m or 2h"),
        (["--gpus-per-trial", "1.5"], "expected auto, 0, a part of a GPU"),
        (["--gpus-per-trial", "1", "--device", "cpu"], "contradict"),
        (["--storage", "mysql://host/db"], "expected sqlite:///FILE"),
        (["--study", "a/b"], "it names a folder"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers there"),
        (["--address", "ray://head:10001"], "is for Ray's client"),
        (["--address", "http://head:8265"], "is where jobs are submitted"),
        (["--address", "head"], "--address head is no address"),
        (["--address", "head:70000"], "or HOST:PORT as `ray start` prints it"),
        (["--task", "savee"], "expected CORPUS:FOLDER"),
        (["--task", "savee:/x", "--visual", "savee:/x"], "--task names both"),
        (["--acoustic", "savee:/x"], "give --visual"),
        (["--task", "savee:/no/such/folder", "--dry-run"], "no such folder"),
        (["--lr", "-1"], "lr = -1.0: must be greater than 0"),
        (["--sampler", "grid"], "are continuous"),
        (
            ["--momentum", "0.99", "--space", "paper", "--alpha", "1", "--decay", "0"],
            "nothing is left to search",
        ),
        (["sweep"], "'sweep'"),
    ],
)
def test_what_is_wrong_is_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert words in errors(capsys, "--runs", str(tmp_path / "runs"), *flags)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MLFLOW_TRACKING_URI", "databricks", "Databricks' own tracking is not supported"),
        ("MLFLOW_TRACKING_URI", "databricks://me", "unset MLFLOW_TRACKING_URI"),
        ("MLFLOW_TRACKING_URI", "./mlruns", "no runs in plain folders"),
        ("MLFLOW_TRACKING_URI", "127.0.0.1:5000", "did you mean http://127.0.0.1:5000?"),
        ("MLFLOW_TRACKING_URI", "tracking:5000", "did you mean http://tracking:5000?"),
        ("MLFLOW_TRACKING_URI", "azureml://region/x", "unknown scheme 'azureml'"),
        ("MLFLOW_TRACKING_URI", "sqlite:///:memory:", "names no file"),
        ("MLFLOW_TRACKING_URI", "sqlite://", "names no file"),
        ("MLFLOW_REGISTRY_URI", "databricks-uc", "names another registry (databricks-uc)"),
        ("MLFLOW_REGISTRY_URI", "sqlite:///other.db", "unset MLFLOW_REGISTRY_URI"),
        ("RAY_ADDRESS", "http://head:8265", "is where jobs are submitted"),
        ("RAY_ADDRESS", "ray://head:10001", "or unset RAY_ADDRESS"),
        ("RAY_ADDRESS", "head", "RAY_ADDRESS=head is no address"),
    ],
)
def test_a_variable_that_is_wrong_is_named_in_a_dry_run_too(
    variable: str,
    value: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    promote = ("--confirm", "2", "--promote")
    line = errors(capsys, "--runs", str(tmp_path / "runs"), "--dry-run", *promote)
    assert words in line and line.startswith(f"error: {variable}")
    assert not (tmp_path / "runs").exists()


def test_an_option_wins_over_the_environment(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own registry, named once more, is no other one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://host:5000/")
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    flags = ["--tracking-uri", "http://host:5000", "--address", "local", "--confirm", "2"]
    spec = make_spec(*flags, "--promote")
    assert (spec.tracking_uri, spec.cluster) == ("http://host:5000", None)


def test_a_web_server_is_no_cluster(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as Ray's dashboard, whose port people know."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)  # we hang up early
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        line = errors(capsys, "--runs", str(tmp_path / "runs"), "--address", address)
        server.shutdown()
    assert f"--address {address}: a web server answers there" in line


@pytest.mark.usefixtures("ray_here")
def test_auto_joins_no_ray_that_another_program_keeps_for_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's own Ray runs here; Ray's own `auto` would find it. Nor does `auto` join it where
    the cluster that was started here is no longer up."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    flags = ["--runs", str(tmp_path / "runs"), "--address"]
    assert "no other program's Ray is joined" in errors(capsys, *flags, "auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    line = errors(capsys, *flags[:2])
    assert "RAY_ADDRESS=auto: no Ray cluster answers at 127.0.0.1:1, where `ray start`" in line
    assert not (tmp_path / "runs").exists()


def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    for flags in (["--device", "cuda"], ["--gpus-per-trial", "1"]):
        assert "no usable GPU" in errors(capsys, "--runs", str(tmp_path / "runs"), *flags)


def test_run_py_alone_elsewhere(tmp_path: Path) -> None:
    """As `ray submit` copies it, beside files that would stand in the way of modules of ours and
    of others."""
    shutil.copy(RUN, tmp_path / "run.py")
    for name in ("trial", "study", "search", "random", "optuna"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')\n")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), "--dry-run", "--trials", "7"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=200,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "7 trials of at most" in done.stdout


def test_help_has_groups_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    for part in ("study:", "search:", "resources:", "data:", "model:", "training:", "examples:"):
        assert f"\n{part}" in text
    for part in ("(default: 20)", "[Hz]", "drawn at random", "30m", "python search/run.py"):
        assert part in text


def test_dry_run_plans_and_starts_nothing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", "--lr", "0.02", "--dry-run"]
    assert command.main([*flags, "--trials", "7", "--epochs", "12", "--time-budget", "90m"]) == 0
    out = capsys.readouterr().out
    assert "7 trials of at most 12 epochs (84 epochs at most)" in out
    assert "for at most 1h30m" in out
    assert "at epochs 2, 6 of 12" in out
    for part in ("visual train", "acoustic train", "acoustic validation", "acoustic test"):
        assert part in out
    assert any(line.split()[:2] == ["lr", "0.02"] for line in out.splitlines())
    assert not runs.exists()


def test_dry_run_of_a_study_that_is_there(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It plans what is left, and is refused where the search would be."""
    runs = tmp_path / "runs"
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", "--study", "s", "--epochs", "12"]
    flags += ["--folds", "none"]
    of = resolve(parse([*flags, "--trials", "7", "--lr", "0.02"]).options)
    (runs / "s").mkdir(parents=True)
    opened = open_study(
        RequestedStudy(
            "s",
            runs / "s",
            "journal",
            of.identity("of data that are not prepared"),
            of.space.enqueue,
        ),
        open_storage(None, runs / "s"),
        make_sampler("random", of.space, 0, 0),
        make_pruner("none", 12),
    )
    for _ in range(3):
        opened.tell(opened.ask(), 0.5)
    record_start(runs / "s", 7, ["--study", "s"])
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("*")}

    def planned(*more: str) -> str:
        assert command.main([*flags, *more]) == 0
        return capsys.readouterr().out

    dry = ("--dry-run", "--lr", "0.02")
    out = planned(*dry, "--trials", "7")
    assert (
        "the study exists and has 3 of 7 trials: 4 more of at most 12 epochs (48 epochs at most)"
        in out
    )
    out = planned(*dry, "--trials", "2", "--estimate")
    assert "the study exists and has 3 trials: no more (--trials 23 extends it)" in out
    assert "estimate:" not in out
    assert "other fixed settings (lr: 0.02, now 0.03)" in errors(
        capsys, *flags, "--dry-run", "--lr", "0.03"
    )
    assert {file: file.stat().st_mtime_ns for file in runs.rglob("*")} == before
    with Lock(runs / "s" / LOCK_FILE):
        out = planned(*dry, "--trials", "7")
    assert f"  process {os.getpid()}" in out and " runs it: until that ends" in out


def test_dry_run_knows_the_demo_corpus_before_it_exists(tmp_path: Path, corpus: Path) -> None:
    task = plan_task(DataConfig(runs=tmp_path), make_settings({}, "demo"))
    settings = demo.DemoSettings()
    heard = settings.speakers * sum(map(settings.sounds, EMOTIONS))
    assert len(task.samples("acoustic")) == heard == 16 * 53
    assert len(task.samples("visual")) == 3 * settings.speakers * settings.takes * 7
    # The listing that the generator's own files give, for a corpus of another size.
    small = demo.DemoSettings(speakers=4, takes=1, uneven=False)
    for source in DataConfig(task=f"demo:{corpus}").sources:
        rows = read(source).rows
        assert len(rows) == small.speakers * small.takes * 7
        samples = task.samples(source.modality)
        listed = list(zip(samples.utterances, samples.speakers, strict=True))
        # Same order: what both hold comes in the same sequence.
        mine = [(row.utterance, row.speaker) for row in rows]
        assert [pair for pair in dict.fromkeys(listed) if pair in mine] == mine


def test_flags_pin_dimensions_and_presets_follow_the_task(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    here = make_spec("--lr", "0.02")
    assert "lr" not in here.space.names
    assert here.fixed["lr"] == 0.02
    assert {"alpha", "decay", "layers"} <= set(here.space.names)
    assert here.settings.preset == "demo"
    assert (here.fixed["tuning"], here.fixed["weights"]) == ("frozen", "none")
    elsewhere = make_spec("--task", f"savee:{tmp_path}", "--device", "cpu")
    assert elsewhere.settings.preset == "cpu"
    assert (elsewhere.fixed["tuning"], elsewhere.fixed["backbone"]) == ("frozen", "resnet34")
    on_gpu = make_settings({}, DataConfig(task="savee:/data").preset(gpu=True))
    assert (on_gpu.preset, on_gpu.values["tuning"]) == ("gpu", "full")
    assert on_gpu.values["spectrogram_size"] == 224


def test_a_database_for_mlflow_is_the_same_in_any_working_folder(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = [
        make_spec("--tracking-uri", uri)
        for uri in ("sqlite:///x.db", f"sqlite:///{tmp_path}/y.db", "http://host:5000")
    ]
    monkeypatch.chdir("/")
    assert [one.tracking_uri for one in there] == [
        f"sqlite:///{tmp_path / 'x.db'}",
        f"sqlite:///{tmp_path / 'y.db'}",
        "http://host:5000",
    ]


def test_the_server_that_the_environment_names_is_remembered(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell without it must not send the rest of the study somewhere else."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://u:secret@127.0.0.1:9")
    spec = make_spec()
    assert spec.tracking_uri == "http://u:secret@127.0.0.1:9"
    assert spec.arguments[-2:] == ["--tracking-uri", "http://u:***@127.0.0.1:9"]
    given = make_spec("--tracking-uri", "http://127.0.0.1:8")
    assert given.arguments[-2:] == ["--tracking-uri", "http://127.0.0.1:8"]


def test_a_grid_ends_with_its_combinations(make_spec: MakeSpec) -> None:
    whole = make_spec("--space", "paper", "--sampler", "grid")
    assert whole.trials == 6
    assert whole.how_to_extend(4) == "--trials 6 extends it"
    assert whole.how_to_extend(6) == "they are the whole grid"
    assert make_spec().how_to_extend(6) == "--trials 26 extends it"
    assert make_spec("--space", "paper", "--sampler", "grid", "--trials", "4").trials == 4


def test_times() -> None:
    assert (parse_time("90s"), parse_time("1h30m"), parse_time("2d")) == (90, 5400, 172800)


@pytest.mark.usefixtures("ray_here")
def test_a_search_in_groups(corpus: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trial stays one of its own in Optuna and in MLflow, with each of its epochs once."""
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--study", "grouped"]
    flags += ["--pruner", "halving", "--trials", "6", "--concurrent", "1"]
    assert "only --tuning frozen" in errors(capsys, *flags, "--group", "3", "--tuning", "full")
    assert command.main([*flags, "--group", "3", "--dry-run"]) == 0
    assert "up to 3 trials of one shape as one" in capsys.readouterr().out
    assert command.main([*flags, "--group", "3"]) == 0
    capsys.readouterr()
    trials = optuna.load_study(
        study_name="grouped", storage=open_storage(None, runs / "grouped")
    ).trials
    assert len(trials) == 6
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert sorted(trial.intermediate_values) == [*range(1, (trial.last_step or 0) + 1)]
    with sqlite3.connect(runs / "mlflow.db") as database:
        found = database.execute(
            "select r.name, count(*) from metrics m join runs r using (run_uuid)"
            " join tags t using (run_uuid) where m.key = 'value' and r.name like 'trial-%'"
            " and t.key = 'fdan.study' and t.value = 'grouped' group by r.name"
        ).fetchall()
    assert dict(found) == {f"trial-{t.number:04d}": len(t.intermediate_values) for t in trials}


def test_a_whole_search(
    corpus: Path,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prepared, searched, continued, extended, refused. At first no figure can be drawn."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('libfreetype.so.6: no such file')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    curves = len(list(runs.rglob("learning_curve.png")))
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--study", "whole"]
    flags += ["--pruner", "halving", "--seed", "3", "--concurrent", "1"]
    assert command.main([*flags, "--trials", "4"]) == 0
    out, err = capsys.readouterr()
    opened = optuna.load_study(study_name="whole", storage=open_storage(None, runs / "whole"))
    trials = opened.trials
    assert len(trials) == 4
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    best = best_trial(opened)
    assert best is not None
    assert f"best trial {best.number}: validation UAR {best.value:.4f}" in out
    assert f"--backend-store-uri sqlite:///{runs / 'mlflow.db'}" in out
    assert "http://127.0.0.1:5000" in out
    assert "4/4 trials" in err
    assert "4 trials have no figures (the process that draws ended with exit code 1: Imp" in err
    assert "libfreetype.so.6: no such file): once that is mended, the same command draws" in err
    assert len(list(runs.rglob("learning_curve.png"))) == curves
    monkeypatch.delenv("PYTHONPATH")

    folder = runs / "whole"
    kept = {p.parent.name for p in folder.glob("trials/*/checkpoint")}
    assert kept == {f"{best.number:04d}"}
    checkpoint = Checkpoint.load(folder / "trials" / f"{best.number:04d}" / "checkpoint")
    assert checkpoint.epoch == 3
    assert checkpoint.value == best.value
    assert read_model(folder / "best").facts["trial"] == best.number
    table = list(csv.DictReader((folder / "figures" / "trials.csv").open()))
    assert [row["state"] for row in table] == [trial.state.name for trial in trials]
    assert [row["reason"] for row in table] == [trial.user_attrs[REASON] for trial in trials]
    with sqlite3.connect(runs / "mlflow.db") as database:
        ids = database.execute(
            "select r.name, run_uuid from runs r join tags t using (run_uuid)"
            " where t.key = 'fdan.study' and t.value = 'whole' and r.name like 'trial-%'"
        ).fetchall()
    assert {f"trial-{int(row['trial']):04d}": row["run_id"] for row in table} == dict(ids)

    assert command.main([*flags, "--trials", "4"]) == 0
    assert (
        "has 4 trials already: nothing to run (--trials 24 extends it)" in capsys.readouterr().err
    )
    assert len(list(runs.rglob("learning_curve.png"))) == curves + 4, "drawn later"
    assert command.main([*flags, "--trials", "5"]) == 0
    assert len(opened.trials) == 5
    capsys.readouterr()
    flags += ["--trials", "5"]
    line = errors(capsys, *flags, "--lr", "0.01")
    assert "study 'whole' exists in" in line and "with another space (lr is gone)" in line
    line = errors(capsys, *flags, "--protocol", "paper")
    assert "another split (protocol: speaker, now paper)" in line
    assert len(opened.trials) == 5


@pytest.mark.long
def test_a_search_that_trains_last_stages(
    corpus: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The maps before them are computed once; the winner is a whole model, which answers from
    images as it was validated on maps."""
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--study", "last"]
    flags += ["--tuning", "last", "--trials", "2", "--confirm", "1", "--seeds", "1"]
    flags += ["--score-test", "--concurrent", "1"]
    assert "only --tuning frozen" in errors(capsys, *flags, "--group", "2")
    assert command.main(flags) == 0
    out, err = capsys.readouterr()
    assert "yardstick left out" not in err and "logistic regression" in out
    assert "speech alone" not in out
    assert len(list((runs / "features").glob("*-maps-*.npy"))) == 2
    result = json.loads((runs / "last" / "result.json").read_text())
    checks = {check["name"]: check["ok"] for check in result["checks"]}
    assert checks["the model answers as its trainer did"] and all(checks.values())
    scored = [score["name"] for score in result["test"]["yardsticks"]]
    assert scored == ["logistic_regression", "mfcc_svm"]
    names = read_model(runs / "last" / "winner").network.state_dict()
    assert "backbones.acoustic.body.conv1.weight" in names
    checkpoint = Checkpoint.load(next(runs.glob("last/trials/*/checkpoint")))
    assert "model.backbones.acoustic.body.layer4.0.conv1.weight" in checkpoint.tensors
    assert "model.backbones.acoustic.body.conv1.weight" not in checkpoint.tensors
    before = {file: file.stat().st_mtime_ns for file in (runs / "features").glob("*.npy")}
    assert command.main([*flags, "--trials", "3"]) == 0
    assert {f: f.stat().st_mtime_ns for f in (runs / "features").glob("*.npy")} == before


@pytest.mark.usefixtures("free_ray")
def test_a_study_that_only_fails_ends_early_and_says_why(
    corpus: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--study", "hopeless"]
    assert command.main([*flags, "--lr", "1e30", "--trials", "12"]) == 1
    out = capsys.readouterr().out
    assert "study hopeless: 5 FAIL (its first 5 trials all failed, the last one, " in out
    assert "loss is " in out and "; mend that, then the same command goes on)" in out
    assert "the first failure: trial " in out
    journal = open_storage_read_only(None, runs / "hopeless")
    opened = optuna.load_study(study_name="hopeless", storage=journal)
    states = [trial.state for trial in opened.trials]
    assert states.count(TrialState.FAIL) == 5
    assert set(states) <= {TrialState.FAIL, TrialState.RUNNING}
    with sqlite3.connect(runs / "mlflow.db") as mlflow:
        found = mlflow.execute(
            "select r.status from runs r join tags t using (run_uuid)"
            " where r.name like 'trial-%' and (t.key, t.value) = ('fdan.study', 'hopeless')"
        ).fetchall()
    assert sorted(found) == [("FAILED",)] * 5 + [("KILLED",)] * states.count(TrialState.RUNNING)


@pytest.mark.usefixtures("free_ray")
def test_a_spent_budget_ends_what_is_under_way(
    corpus: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For good: the same command has nothing to go on with. New trials it may start."""
    flags = ["--runs", str(runs), "--task", f"demo:{corpus}", *SMALL, "--study", "brief"]
    flags += ["--epochs", "100000", "--pruner", "none", "--trials", "2"]
    code = command.main([*flags, "--time-budget", "6s"])
    out = capsys.readouterr().out
    assert code == 1, "no trial is complete"
    assert "(the time budget is spent)" in out
    assert "rest" not in out
    journal = open_storage_read_only(None, runs / "brief")
    trials = optuna.load_study(study_name="brief", storage=journal).trials
    assert len(trials) == 2
    for one in trials:
        assert one.state in (TrialState.PRUNED, TrialState.FAIL)
        assert one.user_attrs[REASON].endswith("the time budget is spent")


def test_weights_that_do_not_fit_end_it_in_a_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"nothing")
    flags = ["--runs", str(tmp_path), "--task", f"demo:{corpus}", *SMALL]
    assert "weights" in errors(capsys, *flags, "--weights", str(weights))
    assert not (tmp_path / "demo").exists()
