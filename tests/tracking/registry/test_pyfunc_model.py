"""The champion as its users have it: MLflow's pyfunc, its HTTP server, and the local folder, all of
which answer as the trainer's own network does."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fdan.emotions import EMOTIONS
from tests.finished import link
from tracking.registry.pickle_scan import pickle_reason

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    import pandas as pd

    from fdan.inference.model_folder import SpeechModel

CLOSE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def search_path() -> Iterator[None]:
    """MLflow leaves a loaded model's code on Python's path, ahead of ours."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patching:
        yield patching


@pytest.fixture(scope="module")
def uri(
    finished: Path,
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    patch: pytest.MonkeyPatch,
) -> str:
    """A database in which `good` is champion, where every user looks."""
    from tracking.promotion.promote import PromotionOptions, promote

    runs = tmp_path_factory.mktemp("served") / "runs"
    patch.setenv("XDG_CACHE_HOME", str(runs.parent / "cache"))
    study = link(finished / "good", runs / "good")
    shutil.copyfile(template, runs / "mlflow.db")
    found = f"sqlite:///{runs / 'mlflow.db'}"
    patch.setenv("MLFLOW_TRACKING_URI", found)
    assert promote(study, PromotionOptions(uri=found)).promoted
    return found


@pytest.fixture(scope="module")
def clips(finished: Path) -> list[Path]:
    """Sounds of the corpus."""
    return sorted((finished / "demo").rglob("*.wav"))[::9]


@pytest.fixture(scope="module")
def ours(finished: Path) -> SpeechModel:
    from fdan.inference.model_folder import read_model

    return read_model(finished / "good" / "winner")


Expected = Callable[[Path], dict[str, float]]


@pytest.fixture(scope="module")
def expected(ours: SpeechModel) -> Expected:
    """What fdan itself says of a sound."""
    from fdan.inference.predict import predict

    return lambda clip: next(iter(predict(ours, [clip]))).probabilities


@pytest.fixture(scope="module")
def loaded(uri: str) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model("models:/fdan@champion")


@pytest.fixture(scope="module")
def folder(uri: str) -> Path:
    """The registered model's own folder."""
    runs = Path(uri.removeprefix("sqlite:///")).parent
    (found,) = (runs / "mlartifacts").rglob("MLmodel")
    return found.parent


def frame(**columns: list[Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def close(row: dict[str, Any], wanted: dict[str, float]) -> bool:
    return all(abs(row[emotion] - wanted[emotion]) <= CLOSE for emotion in EMOTIONS)


def test_the_pyfunc_answers_as_fdan_does(
    loaded: Any, clips: list[Path], expected: Expected
) -> None:
    by_bytes = loaded.predict(frame(speech=[clip.read_bytes() for clip in clips]))
    by_path = loaded.predict(frame(path=[str(clip) for clip in clips]))
    assert list(by_bytes.columns) == ["emotion", *EMOTIONS, "basis", "model"]
    assert by_bytes.equals(by_path)
    for clip, row in zip(clips, by_bytes.to_dict("records"), strict=True):
        wanted = expected(clip)
        assert close(row, wanted)
        assert row["emotion"] == max(wanted, key=lambda name: wanted[name])
        assert (row["basis"], row["model"]) == ("speech", "fdan/1")
    mixed = frame(speech=[None, clips[1].read_bytes()], path=[str(clips[0]), None])
    assert loaded.predict(mixed).equals(by_bytes.iloc[:2])


def test_a_face_is_heard_too(
    loaded: Any, clips: list[Path], ours: SpeechModel, finished: Path
) -> None:
    from fdan.media.pixels import read_pixels, settings_from_dict

    clip = clips[1]
    film = next((finished / "demo").rglob(f"*{clip.parent.name}*/{clip.stem}.avi"))
    images = {
        modality: read_pixels(
            file, settings_from_dict(modality, ours.facts["preparation"][modality])
        ).images
        for modality, file in (("acoustic", clip), ("visual", film))
    }
    wanted = ours.probabilities(images["acoustic"], [images["visual"]])[0]
    said = loaded.predict(frame(speech=[clip.read_bytes()], face=[film.read_bytes()]))
    assert said.basis[0] == "speech and face"
    assert np.abs(said[list(EMOTIONS)].to_numpy()[0] - wanted).max() <= CLOSE


def pictures() -> dict[str, bytes]:
    """Faces that are decoded in ways of their own: of 16 bits that use 8, transparent, and others;
    and a film, whose answer differs from that of any of its frames."""
    import cv2

    grey = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8), (5, 5), 2
    )
    grey = cv2.normalize(grey, None, 0, 255, cv2.NORM_MINMAX)
    clear = np.dstack([grey, grey, grey, grey.T])
    coded = {
        "grey.png": cv2.imencode(".png", grey),
        "deep.png": cv2.imencode(".png", grey.astype(np.uint16)),
        "clear.png": cv2.imencode(".png", clear),
        "clear.webp": cv2.imencode(".webp", clear),
    }
    return {name: content.tobytes() for name, (_, content) in coded.items()}


def test_a_face_is_seen_alike_however_it_is_sent(
    loaded: Any, clips: list[Path], ours: SpeechModel, finished: Path, tmp_path: Path
) -> None:
    """As bytes, base64 or a data URL: what `fdan predict --face` sees in the file."""
    from fdan.inference.predict import predict

    clip = clips[1]
    film = next((finished / "demo").rglob(f"*{clip.parent.name}*/{clip.stem}.avi"))
    sound = clip.read_bytes()
    for name, content in {**pictures(), "film.avi": film.read_bytes()}.items():
        (tmp_path / name).write_bytes(content)
        wanted = next(iter(predict(ours, [clip], tmp_path / name))).probabilities
        kind = "video/avi" if name == "film.avi" else f"image/{name[-4:].strip('.')}"
        text = base64.b64encode(content).decode()
        for sent in (content, text, text.encode(), f"data:{kind};base64,{text}"):
            said = loaded.predict(frame(speech=[sound], face=[sent])).to_dict("records")[0]
            assert said["basis"] == "speech and face"
            assert close(said, wanted), (name, sent[:30])


@pytest.mark.parametrize("what", ["blank", "damaged", "unknown"])
def test_a_face_is_refused_alike_however_it_is_sent(
    loaded: Any, clips: list[Path], what: str
) -> None:
    import cv2

    blank = cv2.imencode(".png", np.zeros((48, 48), np.uint8))[1].tobytes()
    content = {"blank": blank, "damaged": blank[:30], "unknown": b"no picture at all"}[what]
    words = {
        "blank": "the face is blank: one colour",
        "damaged": "the face cannot be decoded as an image \\(damaged, or of a kind that is not",
        "unknown": "the face cannot be decoded.*\\(damaged, or of a kind that is not read here",
    }[what]
    text = base64.b64encode(content).decode()
    for sent in (content, text, f"data:image/png;base64,{text}"):
        with pytest.raises(Exception, match=f"row 0: {words}"):
            loaded.predict(frame(speech=[clips[1].read_bytes()], face=[sent]))


def test_other_codings_are_heard(loaded: Any, clips: list[Path], tmp_path: Path) -> None:
    """The bytes of a flac file, without a name, are the same sound."""
    import soundfile

    samples, rate = soundfile.read(clips[0], dtype="int16")
    soundfile.write(tmp_path / "clip.flac", samples, rate)
    flac = (tmp_path / "clip.flac").read_bytes()
    said = loaded.predict(frame(speech=[flac, clips[0].read_bytes()]))
    assert flac[:4] == b"fLaC" and said.iloc[0].equals(said.iloc[1])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"speech": [b""]}, "row 0: the speech is empty (0 bytes)"),
        ({"speech": [b"RIFF" + b"\xff" * 99]}, "row 0: the speech cannot be decoded"),
        ({"speech": [b"QUJD" * 30 + b"Q"]}, "row 0: the speech is damaged base64"),
        ({"speech": ["data:audio/wav,no"]}, "row 0: the speech is damaged base64"),
        ({"speech": [7]}, "row 0: the speech is int, not bytes or base64"),
        ({"path": ["/no/such.wav"]}, "row 0: /no/such.wav cannot be read"),
        ({"path": [None]}, "row 0: give either speech"),
        ({"speech": [b"a"], "path": ["b"]}, "row 0: give either speech"),
        ({"face": [b"a"]}, "there is no column speech"),
    ],
)
def test_a_bad_row_is_told(loaded: Any, columns: dict[str, list[Any]], words: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as caught:
        loaded.predict(frame(**columns))
    assert words in caught.value.message and "\n" not in caught.value.message


def test_one_bad_row_of_two_is_named(loaded: Any, clips: list[Path]) -> None:
    with pytest.raises(Exception, match="row 1: the face"):
        sounds = [clip.read_bytes() for clip in clips[:2]]
        loaded.predict(frame(speech=sounds, face=[None, b"\x89PNG no image"]))


def test_paths_below_a_folder_only(
    loaded: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a server that was started with FDAN_SPEECH has it."""
    monkeypatch.setenv("FDAN_SPEECH", str(clips[0].parent))
    inside = loaded.predict(frame(path=[clips[0].name]))
    assert len(inside) == 1
    (tmp_path / "link.wav").symlink_to("/etc/passwd")
    for outside in ("/etc/passwd", "../../x.wav", str(tmp_path / "link.wav")):
        with pytest.raises(Exception, match="is not below the folder"):
            loaded.predict(frame(path=[outside]))


def test_who_merely_has_a_server_at_hand_names_paths(
    loaded: Any, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As gradio and notebooks do, which import a server's package for themselves."""
    import uvicorn

    assert uvicorn.__name__ in sys.modules
    said = loaded.predict(frame(path=[str(clips[0])]))
    assert len(said) == 1


# Answers to every request with what the model says of a path.
APP = """
import mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model("models:/fdan@champion")

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    try:
        said = model.predict(pd.DataFrame({"path": ["/etc/passwd"]})).to_json()
    except Exception as error:
        said = str(error)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.encode()})
"""


@pytest.mark.parametrize(
    "program", [["-m", "uvicorn"], [str(Path(sys.executable).with_name("uvicorn"))]]
)
def test_a_server_of_ones_own_takes_no_paths(uri: str, tmp_path: Path, program: list[str]) -> None:
    """One that uvicorn runs, without anything of MLflow's own server."""
    (tmp_path / "own.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, *program, "own:app", f"--port={port}", "--log-level=error"], cwd=tmp_path
    )
    try:
        said = b""
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                    said = answer.read()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.1)
        assert b"a server takes the sound itself, not a path" in said
    finally:
        process.kill()
        process.wait()


def test_no_pickle_and_no_path_of_this_machine(folder: Path, finished: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        assert not pickle_reason(file), file
        assert not file.is_symlink()
    suffixes = {file.suffix for file in files}
    assert suffixes <= {"", ".py", ".json", ".csv", ".safetensors", ".md", ".txt", ".yaml", ".wav"}
    about = (folder / "MLmodel").read_text()
    assert "/tmp" not in about and str(Path(__file__).parents[3]) not in about
    assert "python_model" not in about
    assert (folder / "code" / "fdan" / "media" / "spectrogram.py").is_file()
    for word in ("hop: 256", "spectrogram_size: 32", "sha256", "study: good"):
        assert word in about
    needed = (folder / "requirements.txt").read_text()
    assert "torch==" in needed and "soxr==" in needed
    assert "optuna" not in needed and "opencv" not in needed, "it is for faces alone"


# Prints what a model's folder answers, and the files of fdan that it imported.
ALONE = """
import json, sys
import mlflow.pyfunc, pandas as pd
folder, rows = sys.argv[1:]
said = mlflow.pyfunc.load_model(folder).predict(pd.read_pickle(rows))
own = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] == "fdan"]
print(json.dumps([said.to_dict("records"), own]))
"""


def test_it_carries_the_code_that_it_answers_with_and_no_other(
    folder: Path, loaded: Any, clips: list[Path], finished: Path, tmp_path: Path
) -> None:
    """Sound, a path, a film and a still of the face, in a process that finds no fdan but the one in
    the folder: a module that is missing there is missing."""
    import cv2

    sound = clips[1].read_bytes()
    film = next((finished / "demo").rglob(f"*{clips[1].parent.name}*/{clips[1].stem}.avi"))
    _, picture = cv2.VideoCapture(str(film)).read()
    still = cv2.imencode(".png", picture)[1].tobytes()
    rows = frame(
        speech=[sound, None, sound, sound],
        path=[None, str(clips[1]), None, None],
        face=[None, None, film.read_bytes(), still],
    )
    rows.to_pickle(tmp_path / "rows")
    done = subprocess.run(
        [sys.executable, "-P", "-c", ALONE, str(folder), str(tmp_path / "rows")],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said, imported = json.loads(done.stdout)
    wanted = loaded.predict(rows).to_dict("records")
    assert all(close(row, other) for row, other in zip(said, wanted, strict=True))
    code = folder / "code" / "fdan"
    carried = {str(file.relative_to(code)) for file in code.rglob("*.py")}
    assert {str(Path(file).relative_to(code)) for file in imported} <= carried
    others = ("cli/", "corpora/demo/", "data/", "training/", "evaluation/")
    assert not [name for name in carried if name.startswith(others)]


def test_other_preparation_is_refused_when_it_is_loaded(folder: Path, tmp_path: Path) -> None:
    """The same tensors with another window say other things of the sound that lies beside them."""
    import mlflow.pyfunc

    other = tmp_path / "other"
    shutil.copytree(folder, other)
    facts = json.loads((other / "artifacts/model/model.json").read_text())
    facts["preparation"]["acoustic"]["hop"] = 200
    (other / "artifacts/model/model.json").write_text(json.dumps(facts))
    with pytest.raises(Exception, match="does not answer as the model did when it was promoted"):
        mlflow.pyfunc.load_model(str(other))


def test_by_itself_it_is_named_after_its_study(folder: Path, tmp_path: Path) -> None:
    import mlflow.pyfunc

    alone = tmp_path / "alone"
    shutil.copytree(folder, alone, ignore=shutil.ignore_patterns("registered_model_meta"))
    sound = (alone / "artifacts" / "example" / "example.wav").read_bytes()
    said = mlflow.pyfunc.load_model(str(alone)).predict(frame(speech=[sound]))
    assert said.model[0] == "good, trial 3"


@pytest.fixture(scope="module")
def address(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve`, as the card says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    programs = str(Path(sys.executable).parent)
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve"),
                *("-m", "models:/fdan@champion", "--env-manager", "local", "--port", str(port)),
            ],
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            cwd=log.parent,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def asked(address: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_http(address: str, clips: list[Path], expected: Expected) -> None:
    """A wav over HTTP, in each form that MLflow takes, answered as fdan answers."""
    for clip in clips[:3]:
        text = base64.b64encode(clip.read_bytes()).decode()
        for body in (
            {"dataframe_records": [{"speech": text}]},
            {"dataframe_split": {"columns": ["speech"], "data": [[text]]}},
            {"inputs": {"speech": [text]}},
            {"inputs": [{"speech": text}]},
            {"instances": [{"speech": text}]},
        ):
            status, answer = asked(address, body)
            assert status == 200, answer
            (row,) = answer["predictions"]
            assert close(row, expected(clip)) and row["model"] == "fdan/1"


def test_the_page_shows_how_a_face_is_sent(
    address: str, clips: list[Path], ours: SpeechModel, tmp_path: Path
) -> None:
    from fdan.inference.predict import predict

    page = (Path(__file__).parents[3] / "docs/promotion.md").read_text()
    (typed,) = (
        block for block in re.findall(r"```sh\n(.*?)```", page, re.S) if "face.png" in block
    )
    typed = typed.replace("http://127.0.0.1:5001/invocations", address)
    clip, face = tmp_path / "clip.wav", tmp_path / "face.png"
    shutil.copy(clips[0], clip)
    face.write_bytes(pictures()["deep.png"])
    done = subprocess.run(["bash", "-c", typed], cwd=tmp_path, capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    assert close(row, next(iter(predict(ours, [clip], face))).probabilities)


@pytest.mark.parametrize("kind", ["dataframe_records", "dataframe_split", "inputs", "instances"])
def test_http_takes_what_browsers_and_apps_send(
    address: str, clips: list[Path], kind: str, tmp_path: Path
) -> None:
    """A data: URL, base64url, without its padding, in lines: as plain base64."""
    import soundfile

    samples, rate = soundfile.read(clips[0], dtype="int16")
    cut = next(n for n in (1, 2) if (44 + 2 * (len(samples) - n)) % 3)  # so that base64 is padded
    soundfile.write(tmp_path / "clip.wav", samples[:-cut], rate)
    content = (tmp_path / "clip.wav").read_bytes()
    plain, url = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    assert plain.endswith("=") and {"-", "_"} <= set(url)
    texts = [plain, plain.rstrip("="), url, url.rstrip("="), base64.encodebytes(content).decode()]
    texts += [f"data:audio/wav;base64,{plain}", f"data:audio/x-wav;base64,{plain.rstrip('=')}"]
    texts += [f"data:audio/webm;codecs=opus;base64,{url.rstrip('=')}", f"Data:;base64,{plain}\n"]
    rows: Any = [{"speech": text} for text in texts]
    if kind == "dataframe_split":
        rows = {"columns": ["speech"], "data": [[text] for text in texts]}
    status, answer = asked(address, {kind: rows})
    assert status == 200, answer
    first, *others = answer["predictions"]
    assert len(others) == len(texts) - 1 and all(row == first for row in others)


@pytest.mark.parametrize("kind", ["dataframe_records", "inputs", "instances"])
@pytest.mark.parametrize("speech", ["!" * 3000, "data:audio/wav;base64,%%%" + "?" * 3000, 777777])
def test_http_does_not_repeat_the_input(address: str, kind: str, speech: object) -> None:
    status, answer = asked(address, {kind: [{"speech": speech}]})
    assert status == 400 and answer["message"].startswith("row 0: the speech is ")
    assert "\n" not in answer["message"] and len(answer["message"]) < 200
    assert str(speech)[-5:] not in json.dumps(answer)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"path": "/etc/passwd"}, "a server takes the sound itself, not a path"),
        ({"speech": "AAAA"}, "row 0: the speech cannot be decoded"),
        ({"speech": ""}, "row 0: the speech is empty"),
        ({"other": 1}, "there is no column speech"),
    ],
)
def test_http_says_what_is_wrong(address: str, row: dict[str, Any], words: str) -> None:
    status, answer = asked(address, {"dataframe_records": [row]})
    assert status == 400 and words in answer["message"]
    assert "root:" not in json.dumps(answer)


def test_the_command_answers_alike(uri: str, clips: list[Path], expected: Expected) -> None:
    """`python -m fdan predict --model models:/...`, which executes nothing of the artifact."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fdan", "predict", "--json"),
            *("--model", "models:/fdan@champion", str(clips[0])),
        ],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    (said,) = json.loads(done.stdout)
    assert close(said["probabilities"], expected(clips[0]))
    assert said["model"] == "fdan version 1 (study good, trial 3)"
