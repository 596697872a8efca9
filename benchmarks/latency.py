"""python -m benchmarks.latency: one clip on one CPU core, torch beside onnxruntime."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks import comparing
from fdan.inference.model_source import Model, find_model

ABOUT = """\
One 4 s clip, wav file to probabilities, in a warm process on one CPU core: the same model as a
folder (torch) and as ONNX (onnxruntime), by turns in the same run, so that whatever else the
machine does meets both alike.

warm         sound read and made a log-mel image, then the network. Decoding is in the same process,
             as where MLflow serves a model; `predict` decodes in processes of its own, which adds
             their start once. Median and 95th percentile of wall time; and the median of CPU time,
             of all and of the network alone: wall time is no less than that, and no more where
             nothing else wants the core.

cold         `python -m fdan predict` on the clip, from the shell to the answer, one start each.

The process and its children keep to one core, and torch and onnxruntime to one thread. Without
MODEL it is a ResNet-34 for 224 x 224 with random weights, which take as long as trained ones."""

SECONDS: Final = 4.0
RATE: Final = 16_000


@dataclass(frozen=True)
class Times:
    """Milliseconds a clip: wall time, and CPU time; cold_s: seconds of the whole command."""

    median: float
    p95: float
    cpu: float
    network_cpu: float
    cold_s: float

    @classmethod
    def of(cls, seconds: list[tuple[float, float, float]], cold_s: float) -> Times:
        """Of wall, CPU and the network's CPU time of each clip."""
        wall, cpu, network = 1000 * np.array(seconds).T
        return cls(
            median=float(np.median(wall)),
            p95=float(np.quantile(wall, 0.95)),
            cpu=float(np.median(cpu)),
            network_cpu=float(np.median(network)),
            cold_s=cold_s,
        )


def compare(folder: Path, work: Path, clips: int) -> tuple[dict[str, Times], float]:
    """Times of both, and how far apart their probabilities were."""
    from fdan.inference.export import export
    from fdan.inference.model_folder import read_model
    from fdan.inference.onnx_model import OnnxModel
    from fdan.media.pixels import read_pixels, settings_from_dict

    file, clip = work / f"{len(list(work.iterdir()))}.onnx", _clip(work / "clip.wav")
    export(folder, file)
    models: dict[str, Model] = {"torch": read_model(folder), "onnxruntime": OnnxModel.read(file)}
    settings = settings_from_dict("acoustic", models["torch"].facts["preparation"]["acoustic"])
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    answers: dict[str, npt.NDArray[np.float64]] = {}
    for number in range(clips + 5):
        for name, model in models.items():
            start, cpu = time.perf_counter(), time.process_time()
            images = read_pixels(clip, settings).images
            read = time.process_time()
            answers[name] = model.probabilities(images)
            wall, end = time.perf_counter() - start, time.process_time()
            if number >= 5:  # warm by now
                seconds[name].append((wall, end - cpu, end - read))
    cold = {"torch": _cold(folder, clip), "onnxruntime": _cold(file, clip)}
    apart = float(np.abs(answers["torch"] - answers["onnxruntime"]).max())
    return {name: Times.of(seconds[name], cold[name]) for name in models}, apart


def untrained(folder: Path) -> Path:
    """A ResNet-34 for images of 224 pixels, with random weights and a bank."""
    import torch

    from fdan.inference.model_writer import write_model
    from fdan.media.pixels import settings_to_dict
    from fdan.media.spectrogram import SpectrogramSettings
    from fdan.model.backbones import find_weights
    from fdan.model.network import Network
    from fdan.run_config import FEATURES, RunConfig
    from fdan.training.checkpoint import Checkpoint

    run = RunConfig.from_mapping({"backbone": "resnet34", "weights": "none", "tuning": "full"})
    network = Network.from_config(run.model)
    faces, speech = torch.rand(2, 7 * run.model.bank, FEATURES["resnet34"])
    with torch.no_grad():
        bank = network.head.build_bank(faces, speech)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"bank.{i}": z for i, z in enumerate(bank)}
    weights = find_weights("resnet34", "none").sha256
    prepared = {"acoustic": settings_to_dict(SpectrogramSettings(spectrogram_size=224))}
    checkpoint = Checkpoint(run, 1, 1, (0.0,), weights, "none", tensors)
    write_model(folder, checkpoint, {"preparation": prepared})
    return folder


def _clip(file: Path) -> Path:
    """Noise whose loudness and colour come and go, as long as an utterance."""
    import soundfile

    random, times = np.random.default_rng(0), np.arange(round(SECONDS * RATE)) / RATE
    sound = np.sin(2 * np.pi * 180 * times) + random.normal(0, 0.5, len(times))
    soundfile.write(file, 0.2 * sound * np.sin(np.pi * times) ** 2, RATE)
    return file


def _cold(model: Path, clip: Path) -> float:
    """Seconds of the whole command."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "fdan", "predict", str(model), str(clip)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    core = max(os.sched_getaffinity(0))
    for thread in Path("/proc/self/task").iterdir():  # NumPy's own threads are up already
        os.sched_setaffinity(int(thread.name), {core})
    import torch

    torch.set_num_threads(1)
    machine = comparing.machine("torch", "onnxruntime")
    print(comparing.heading(machine))
    found: dict[str, Any] = {"machine": machine, "clip_s": SECONDS, "clips": options.clips}
    with tempfile.TemporaryDirectory(prefix="fdan-latency-") as name:
        work = Path(name)
        if options.model is None:
            title, folder = "ResNet-34 at 224, random weights", untrained(work / "model")
        else:
            title, folder = options.model, find_model(options.model)
        times, apart = compare(folder, work, options.clips)
    ratio = times["torch"].cpu / times["onnxruntime"].cpu
    _show(title, times, apart, ratio)
    found |= {"model": title, "apart": apart, "ratio": ratio}
    found |= {name: asdict(one) for name, one in times.items()}
    comparing.write(options.json, found)
    return 0


def _show(title: str, times: dict[str, Times], apart: float, ratio: float) -> None:
    print(f"{title}: one clip of {SECONDS:g} s on one core")
    print("               wav to probabilities               CPU time   of network   command, cold")
    for name, one in times.items():
        print(
            f"  {name:<12} median {one.median:6.1f} ms, 95 % {one.p95:6.1f} ms"
            f"  {one.cpu:6.1f} ms    {one.network_cpu:6.1f} ms        {one.cold_s:6.1f} s"
        )
    print(f"  torch takes {ratio:.2f} times the CPU time; probabilities differ by {apart:.0e}")


def _parser() -> argparse.ArgumentParser:
    parser = comparing.parser("latency", ABOUT)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a model's folder or address (default: an untrained ResNet-34 at 224)",
    )
    parser.add_argument(
        "--clips",
        type=comparing.count,
        default=200,
        metavar="INT",
        help="clips judged by each (default: 200)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
