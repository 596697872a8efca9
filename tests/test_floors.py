"""Imports run downward only: search, tracking, fdan; the heavy engines stay upstairs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "fdan": {"search", "tracking", "ray", "optuna", "mlflow"},
    "tracking": {"search", "ray", "optuna"},
    "search": set(),
}
# What decodes media. Training from a prepared store must not need it.
MEDIA = {"librosa", "cv2", "av", "soundfile", "soxr"}
MEDIA_HOMES = ("fdan/media/", "fdan/corpora/demo/")


def imported(file: Path) -> set[str]:
    """Top-level names of every import in `file`, wherever in the file it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the package's name"
            names.add((node.module or "").split(".")[0])
    return names


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no Python files under {package}/"
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_downward(package: str) -> None:
    broken = {
        str(file.relative_to(ROOT)): sorted(imported(file) & FORBIDDEN[package])
        for file in files(package)
        if imported(file) & FORBIDDEN[package]
    }
    assert not broken, f"imports that run upward: {broken}"


def test_media_libraries_stay_in_media() -> None:
    broken = {
        str(file.relative_to(ROOT)): sorted(imported(file) & MEDIA)
        for package in FORBIDDEN
        for file in files(package)
        if imported(file) & MEDIA and not str(file.relative_to(ROOT)).startswith(MEDIA_HOMES)
    }
    assert not broken, f"media libraries outside fdan/media: {broken}"
