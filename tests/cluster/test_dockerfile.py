"""The image's recipe, as far as it can be checked without a Docker daemon."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if line and not line.startswith("#")
]


def test_what_it_copies_exists_and_is_all_that_the_package_needs() -> None:
    copied: set[str] = set()
    for step, rest in STEPS:
        if step == "COPY":
            words = [word for word in shlex.split(rest) if not word.startswith("--")]
            copied.update(words[:-1])
    assert all((ROOT / name).exists() for name in copied)
    assert copied >= {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert copied >= {"fdan", "search", "tracking", "cluster"}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


def test_its_versions_are_the_constraints() -> None:
    """The base image's Ray is the one that is installed, and the cluster's in kuberay.yaml."""
    (base,) = (rest for step, rest in STEPS if step == "FROM")
    version = re.fullmatch(r"rayproject/ray:([\d.]+)-py312", base)
    assert version is not None
    assert f"ray=={version[1]}" in (ROOT / "constraints.txt").read_text().splitlines()
    documents = list(yaml.safe_load_all((ROOT / "cluster" / "kuberay.yaml").read_text()))
    cluster = documents[1]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == version[1]
    (folder,) = (rest for step, rest in STEPS if step == "WORKDIR")
    assert f"{folder}/search/run.py" in documents[1]["spec"]["entrypoint"]
    runs = [rest for step, rest in STEPS if step == "RUN"]
    assert any("libgl1" in run and "libglib2.0-0" in run for run in runs)
    assert any("-c constraints.txt" in run and "[cluster]" in run for run in runs)
