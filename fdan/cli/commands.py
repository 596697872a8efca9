"""The commands of `python -m fdan`. Tables go to stdout, progress to stderr."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fdan.cli.terminal import Preparing, print_beside, print_left_out, table_console
from fdan.corpora.demo import DemoSettings, generate
from fdan.data.folds import fold_splits, validation_speakers
from fdan.data.open_task import (
    DataConfig,
    generation_progress,
    naming_left_out,
    open_task,
    prepare_task,
)
from fdan.data.provenance import origin, reopen
from fdan.data.settings import Settings, make_settings
from fdan.data.split import describe, split
from fdan.data.store import MANIFEST, Store
from fdan.emotions import EMOTIONS, SHORT
from fdan.errors import ConfigError, DataError, WeightsError
from fdan.inference.model_source import describe_model, find_model, model_folder, open_model
from fdan.inference.predict import Prediction, speech_files
from fdan.inference.predict import predict as run_prediction

Command = Callable[[argparse.Namespace], None]

_CHECKPOINT = "checkpoint"  # below --out: what training continues from
_MAX_LISTED = 20  # unreadable files that `prepare` names on the terminal; the manifest has them all


def demo(arguments: argparse.Namespace) -> None:
    """Write the demo corpus."""
    settings = DemoSettings(**DemoSettings.pick(vars(arguments)))
    with Preparing(Console(stderr=True, highlight=False)) as preparing:
        progress = generation_progress(arguments.folder, preparing)
        folder = generate(arguments.folder, **settings.as_dict(), progress=progress)
    count = settings.speakers * settings.takes * len(EMOTIONS)
    print(f"{folder}: {count} utterances of {settings.speakers} speakers, each as wav and avi")
    print(f"next: python -m fdan train --task {shlex.quote(f'demo:{folder}')} --out runs/first")


def prepare(arguments: argparse.Namespace) -> None:
    """Prepare every store of a task."""
    data, settings = _data_and_settings(arguments, gpu=False)
    with Preparing(Console(stderr=True, highlight=False)) as progress:
        task = prepare_task(data, settings, progress)
    table = _table(f"{task.name}, data {task.fingerprint[:12]}")
    for title in ("store", "samples", "unreadable", "counted"):
        table.add_column(title, justify="left" if title in ("store", "counted") else "right")
    for store in (*task.acoustic, *task.visual):
        counts = "; ".join(f"{name}: {count}" for name, count in store.counts.items())
        table.add_row(_short(store.folder), str(len(store)), str(len(store.unreadable)), counts)
    console = table_console()
    console.print(table)
    with naming_left_out(task):  # the stores are there, and shown, whatever becomes of the split
        parts = split(task, settings.split)
    for part in describe(task, parts):
        speakers = len(part.speakers) or "unknown"
        console.print(f"  {part.part}: {part.total} samples, {speakers} speakers")
    if settings.split.has_folds:
        for number, fold in enumerate(fold_splits(task, settings.split), start=1):
            names = ", ".join(validation_speakers(task, fold))
            console.print(f"  fold {number} validates on {names}")
    for store in (*task.acoustic, *task.visual):
        _list_unreadable(store, console)
    print_beside(task, console)


def train(arguments: argparse.Namespace) -> None:
    """Train one model, or continue its training."""
    from fdan.device import choose_device
    from fdan.inference.model_writer import write_model
    from fdan.run_config import RunConfig
    from fdan.training.checkpoint import Checkpoint
    from fdan.training.train import EpochReport
    from fdan.training.train import train as run_training
    from fdan.training.training_data import load_training_data

    device = choose_device(arguments.device)
    data_config, settings = _data_and_settings(arguments, gpu=device.type == "cuda")
    if settings.split.has_folds:
        raise ConfigError(
            "--folds: this command trains one model on one split; python search/run.py trains folds"
        )
    run = RunConfig.from_mapping(settings.run)
    out: Path = arguments.out
    checkpoint_folder = out / _CHECKPOINT
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not checkpoint_folder.exists():
        raise ConfigError(f"--out {out}: holds something else; name a new folder")
    resume = Checkpoint.load(checkpoint_folder) if checkpoint_folder.exists() else None
    console = Console(stderr=True, highlight=False)
    with Preparing(console) as progress:
        task, split = open_task(data_config, settings, progress)
        data = load_training_data(
            task, split, run, device, data_config.runs / "features", progress.features
        )
    print_left_out(task, console)
    sizes = ", ".join(f"{part.part} {part.total}" for part in describe(task, split))
    print(f"{task.name} on {device}: {sizes}")
    if resume is not None:
        print(f"continuing after epoch {resume.epoch} of {checkpoint_folder}")

    width = len(str(run.training.epochs))

    def report(epoch: EpochReport, checkpoint: Callable[[], Checkpoint]) -> None:
        m = epoch.metrics
        print(
            f"epoch {epoch.epoch:>{width}}/{run.training.epochs}  loss {m['train/loss']:.3f}"
            f"  lmmd {m['train/lmmd']:.4f}  validation UAR {m['validation/uar']:.3f}"
            f"  WAR {m['validation/war']:.3f}  w-F1 {m['validation/wf1']:.3f}"
            f"  {m['time/epoch_s']:.1f} s",
            flush=True,
        )
        out.mkdir(parents=True, exist_ok=True)
        checkpoint().save(checkpoint_folder)

    last = run_training(run, data, report, device=device, resume=resume)
    write_model(out / "model", last, origin(task, settings.split))
    print(f"validation UAR {last.value:.3f} over the last epochs; model in {out / 'model'}")
    print(f"next: python -m fdan evaluate {shlex.quote(str(out))}")


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a model on the test or validation part of the data that it was trained on."""
    folder = model_folder(arguments.model)
    from fdan.inference.model_folder import read_model
    from fdan.metrics import confusion_matrix, measures

    model = read_model(folder, arguments.device)
    if arguments.part == "test" and "study" in model.facts:
        study, runs = str(model.facts["study"]), folder.absolute().parent.parent
        where = "" if runs == Path("runs").absolute() else f" --runs {shlex.quote(str(runs))}"
        raise ConfigError(
            f"{arguments.model} is of the study '{study}', whose test part is scored once, for its"
            f" winner: python search/run.py --study {shlex.quote(study)}{where} --score-test;"
            " here: --part validation"
        )
    near = [folder.absolute().parent.parent / "stores", Path("runs/stores")]
    task, split = reopen(model.facts, arguments.stores, near)
    samples = split.acoustic_test if arguments.part == "test" else split.acoustic_validation
    truth = task.samples("acoustic").labels[samples]
    predicted = model.probabilities(task.images("acoustic", samples)).argmax(1)
    scores = measures(confusion_matrix(truth, predicted, len(EMOTIONS)))
    if arguments.json:
        document = {
            "model": str(arguments.model),
            "task": task.name,
            "part": arguments.part,
            "samples": len(samples),
            "war": scores.war,
            "uar": scores.uar,
            "wf1": scores.wf1,
            "emotions": list(EMOTIONS),
            "confusion": scores.confusion.tolist(),
        }
        print(json.dumps(document))
        return
    protocol = model.facts["split"]["protocol"]
    table = _table(
        f"{task.name}, {arguments.part} part ({len(samples)} utterances, protocol {protocol})"
    )
    table.add_column("true, predicted as")
    for short in (*SHORT, "recall"):
        table.add_column(short, justify="right")
    for i, row in enumerate(scores.confusion.tolist()):
        recall = f"{row[i] / sum(row):.3f}" if sum(row) else "absent"
        table.add_row(EMOTIONS[i], *map(str, row), recall)
    console = table_console()
    console.print(table)
    console.print(f"WAR {scores.war:.4f}  UAR {scores.uar:.4f}  w-F1 {scores.wf1:.4f}")


def predict(arguments: argparse.Namespace) -> None:
    """Print the emotions of new files. Those that cannot be read are named on stderr; if none can,
    the exit code is 2."""
    name, paths = arguments.model, [Path(path) for path in arguments.paths]
    if name is None:
        if len(paths) < 2:
            raise ConfigError("name a model (or give it with --model) and files to judge")
        name, paths = arguments.paths[0], paths[1:]
    elif not paths:
        raise ConfigError("name audio or video files to judge")
    source = find_model(name)
    files = speech_files(paths)
    face: Path | None = arguments.face
    if face is not None and len(files) != 1:
        raise ConfigError(f"--face needs exactly one speech file, not {len(files)}")
    if face is not None and not face.is_file():
        raise DataError(f"face {face}: no such file")
    model = open_model(source, arguments.device)
    if face is not None and model.facts.get("run", {}).get("system") == "speech":
        raise ConfigError(f"--face: {name} was trained on speech alone; leave it out")
    model_text = describe_model(name, source, model.facts)
    print_predictions = _print_json if arguments.json else _print_table
    predictions = print_predictions(run_prediction(model, files, face), model_text)
    failed = [prediction for prediction in predictions if prediction.emotion is None]
    for prediction in failed if len(failed) < len(predictions) else failed[1:]:
        print(f"skipped {prediction.file}: {prediction.reason}", file=sys.stderr)
    for prediction in predictions:
        if prediction.notes:
            print(f"{prediction.file}: {', '.join(prediction.notes)}", file=sys.stderr)
    if len(failed) == len(predictions):
        raise DataError(f"{failed[0].file}: {failed[0].reason}")


def export(arguments: argparse.Namespace) -> None:
    """Write a model as ONNX."""
    folder = find_model(arguments.model)
    if folder.is_file():
        raise WeightsError(
            f"model {folder}: is a file; name the folder that train or a search wrote"
        )
    from fdan.inference.export import export as write_onnx

    difference = write_onnx(folder, arguments.file)
    size = arguments.file.stat().st_size / 1e6
    print(f"{arguments.file}: {size:.1f} MB; on noise, probabilities differ by {difference:.0e}")
    print(f"next: python -m fdan predict {shlex.quote(str(arguments.file))} clip.wav")


def _data_and_settings(arguments: argparse.Namespace, *, gpu: bool) -> tuple[DataConfig, Settings]:
    data = DataConfig(**DataConfig.pick(vars(arguments)))
    return data, make_settings(vars(arguments), data.preset(gpu=gpu))


def _list_unreadable(store: Store, console: Console) -> None:
    manifest = f"{_short(store.folder)}/{MANIFEST}"
    for what, files in (("unreadable", store.unreadable), ("left out or missing", store.problems)):
        for file in files[:_MAX_LISTED]:
            console.print(f"  {what}: {file['path']}: {file['reason']}", style="yellow")
        if len(files) > _MAX_LISTED:
            console.print(f"  and {len(files) - _MAX_LISTED} more {what} in {manifest}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)


def _short(path: Path) -> str:
    """The path as it is typed in the working folder."""
    folder = Path.cwd()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _print_json(predictions: Iterable[Prediction], model: str) -> list[Prediction]:
    """Print one document."""
    predictions = list(predictions)
    documents = [
        {
            "file": str(prediction.file),
            "emotion": prediction.emotion,
            "probabilities": prediction.probabilities,
            "by": prediction.by,
            "notes": prediction.notes,
            "model": model,
        }
        if prediction.emotion
        else {"file": str(prediction.file), "emotion": None, "reason": prediction.reason}
        for prediction in predictions
    ]
    print(json.dumps(documents, indent=1))
    return predictions


def _print_table(predictions: Iterable[Prediction], model: str) -> list[Prediction]:
    """Print a line for each file that can be read, as soon as it is judged."""
    judged: list[Prediction] = []
    for prediction in predictions:
        if prediction.emotion is not None:
            if not any(earlier.emotion for earlier in judged):
                print(f"by {prediction.by}, model {model}")
                print("  ".join(["emotion".ljust(9), *(name.rjust(5) for name in SHORT), "file"]))
            numbers = "  ".join(f"{prediction.probabilities[name]:5.2f}" for name in EMOTIONS)
            print(f"{prediction.emotion:<9}  {numbers}  {prediction.file}", flush=True)
        judged.append(prediction)
    return judged
