"""Provenance of a study for MLflow's runs: settings, data, versions."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdan.data.provenance import origin
from fdan.data.split import SplitConfig
from fdan.data.task import Task
from fdan.files import PROJECT_ROOT
from search.config.spec import StudySpec
from tracking.tags import (
    CPU,
    DATA,
    DEVICE,
    FOLDS,
    GIT,
    OUTER,
    PROTOCOL,
    SEED,
    TASK,
    THREADS,
    VERSION_PREFIX,
)

if TYPE_CHECKING:
    from search.selection.winner import StudyData


def parameters(spec: StudySpec, task: Task) -> dict[str, Any]:
    """Parameters of a study's own run: settings that its trials share, and the space.

    Args:
        spec: The study.
        task: Data of the study.
    """
    return {
        "task": task.name,
        "sampler": spec.search.sampler,
        "pruner": spec.search.pruner,
        "trials": spec.trials,
        **SplitConfig.pick(spec.settings.values),
        **spec.fixed,
        **{f"space.{d.name}": str(d) for d in spec.space.dimensions},
    }


def tags(spec: StudySpec, task: Task, folds: int = 0) -> dict[str, Any]:
    """Tags of every run: data, protocol, seed, the versions of the code, and what it ran on.

    Args:
        spec: The study.
        task: Data of the study.
        folds: Number of folds that each trial trains; 0: one split.
    """
    own: dict[str, object] = {**spec.extra_tags}
    if folds:
        own[FOLDS] = f"{folds} folds"
    if spec.settings.split.has_outer:
        own[OUTER] = spec.settings.split.outer
    return {
        TASK: task.name,
        DATA: task.fingerprint,
        PROTOCOL: spec.settings.values["protocol"],
        SEED: spec.seed,
        GIT: revision(),
        CPU: cpu(),
        THREADS: spec.per_trial.cpus,
        DEVICE: spec.device,
        **own,
        **versions(),
    }


def made_from(data: StudyData) -> dict[str, Any]:
    """The data, split and machine, recorded with every trial beside its settings for
    `python -m search rerun`."""
    spec, task = data.spec, data.task
    return {
        "origin": origin(task, spec.settings.split),
        "machine": {
            "device": spec.device,
            "threads": spec.per_trial.cpus,
            "group": spec.resources.group,
            "features": str(spec.runs / "features"),
            "weights": spec.identity(task.fingerprint).fixed["weights"],
        },
    }


def versions() -> dict[str, str]:
    """Installed versions, by `version.PACKAGE`."""
    installed = {VERSION_PREFIX + "python": platform.python_version()}
    for package in ("fdan-search", "torch", "torchvision", "numpy", "ray", "optuna", "mlflow"):
        with contextlib.suppress(PackageNotFoundError):
            installed[VERSION_PREFIX + package] = version(package)
    return installed


def cpu() -> str:
    """Name of this machine's processor."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if match := re.search(r"^model name\s*:(.*)$", text, re.MULTILINE):
            return match[1].strip()
    return platform.processor() or platform.machine()


def revision() -> str:
    """The git commit of this code, with `+` where files differ from it; outside a repository, as on
    a cluster's nodes, a hash of the files."""

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *args],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if git("ls-files", "--", __file__):  # this file belongs to the repository
            changed = git("status", "--porcelain", "--untracked-files=no", "--", str(PROJECT_ROOT))
            return git("rev-parse", "HEAD") + "+" * bool(changed)
    digest = hashlib.sha256()
    for package in ("fdan", "search", "tracking"):
        for file in sorted((PROJECT_ROOT / package).rglob("*.py")):
            digest.update(f"{file.relative_to(PROJECT_ROOT)}\n".encode() + file.read_bytes())
    return f"files {digest.hexdigest()[:16]}"
