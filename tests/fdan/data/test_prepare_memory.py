"""Preparing holds a few clips a core in memory, however many a corpus has and however long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[3]
WORDS = ("angry", "happy")

# A worker that opens the corpus's first file waits, so that the images of all others are ready
# before the first one's can be written.
SITECUSTOMIZE = """
import sys, time
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("angry/000.png"):
        time.sleep(2)
if "fdan.media.worker" in " ".join(sys.orig_argv):
    sys.addaudithook(hook)
"""

RUN = """
import json, re, resource, sys
from pathlib import Path
from fdan.corpora import Source
from fdan.media.faces import FaceSettings
from fdan.data.prepare import prepare

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

before = most()
settings = FaceSettings(face_size=int(sys.argv[3]), detect="never")
source = Source("folders", Path(sys.argv[1]), "visual")
store = prepare(source, settings, Path(sys.argv[2]), workers=2)
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
print(json.dumps([len(store), store.images.nbytes / 1e6, most() - before, workers - before]))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")


def prepared(corpus: Path, stores: Path, size: int, site: Path) -> list[float]:
    """Images; MB of the store; MB that this process took for it, and that a worker takes more
    than this process did before."""
    path = os.pathsep.join([str(site), str(REPO)])
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(corpus), str(stores), str(size)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


def test_many_files_behind_a_slow_one(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    for word in WORDS:
        (tmp_path / "corpus" / word).mkdir(parents=True)
        for number in range(150):
            cv2.imwrite(str(tmp_path / "corpus" / word / f"{number:03d}.png"), image)
    images, store, here, _ = prepared(
        tmp_path / "corpus", tmp_path / "stores", 512, tmp_path / "site"
    )
    assert images == 300 and store > 230
    assert here < 60


def test_a_long_clip(tmp_path: Path) -> None:
    for word in WORDS:
        (tmp_path / "corpus" / word).mkdir(parents=True)
        file = str(tmp_path / "corpus" / word / "clip.avi")
        writer = cv2.VideoWriter(file, cv2.VideoWriter_fourcc(*"MJPG"), 25, (640, 480))
        for index in range(300):
            writer.write(np.full((480, 640, 3), index % 200, np.uint8))
        writer.release()
    images, _, here, worker = prepared(tmp_path / "corpus", tmp_path / "stores", 64, tmp_path)
    assert images == 6
    # All frames of a clip would be 276 MB.
    assert here < 60 and worker < 130
