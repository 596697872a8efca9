"""What MLflow's runs say of where a study came from: settings, data, versions."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fdan.split import SplitConfig
from fdan.task import Task
from search.plan import Plan


def parameters(resolved: Plan, task: Task) -> dict[str, Any]:
    """Of the parent run: everything that its trials share, and the space."""
    arguments = resolved.arguments
    searched = {f"space.{d.name}": str(d) for d in resolved.space.dimensions}
    return {
        "task": task.name,
        "sampler": arguments.sampler,
        "pruner": arguments.pruner,
        "trials": resolved.trials,
        **resolved.settings.of(SplitConfig),
        **resolved.fixed,
        **searched,
    }


def tags(resolved: Plan, task: Task) -> dict[str, Any]:
    """Of every run: data, protocol, seed, and the versions of the code."""
    versions = {}
    for package in ("fdan-search", "torch", "torchvision", "ray", "optuna", "mlflow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[f"version.{package}"] = version(package)
    return {
        "task": task.name,
        "data": task.fingerprint,
        "protocol": resolved.settings.values["protocol"],
        "seed": resolved.seed,
        "git": _revision(),
        "version.python": platform.python_version(),
        **versions,
    }


def _revision() -> str:
    """The git commit of this code, `+` where files differ from it; empty outside a repository."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return commit + "+" * bool(commit and git("status", "--porcelain", "--", str(here.parent)))
    except (OSError, subprocess.TimeoutExpired):
        return ""
