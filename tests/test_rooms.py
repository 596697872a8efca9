"""The floors search, tracking, fdan and the order of rooms inside each; where heavy packages may be
imported; how large a file and a folder may be."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "fdan": {"search", "tracking", "ray", "optuna", "mlflow"},
    "tracking": {"search", "ray", "optuna"},
    "search": set(),
}
ROOMS = {
    "search": (
        ("run", "__main__"),
        ("cli",),
        ("nested",),
        ("pipeline",),
        ("stages",),
        ("planning",),
        ("tune", "reproduce"),
        ("callbacks", "results"),
        ("selection",),
        ("config",),
        ("study",),
        ("worker", "optimizer"),
        ("formatting",),
    ),
    "tracking": (
        ("__main__",),
        ("commands",),
        ("report", "promotion"),
        ("tracker",),
        ("registry", "outbox"),
        ("backend",),
        ("tags", "uri", "result", "nested_result", "record", "json_types", "command_line"),
    ),
    "fdan": (
        ("__main__",),
        ("cli",),
        ("inference",),
        ("evaluation",),
        ("training",),
        ("data",),
        ("media", "model"),
        ("corpora",),
        (
            "config",
            "device",
            "emotions",
            "errors",
            "files",
            "lock",
            "machine",
            "metrics",
            "run_config",
        ),
    ),
}
"""From the top down. A room imports from rooms below it; the files of the last line import one
another."""

# What decodes media. Training from a prepared store must not need it.
MEDIA = {"librosa", "cv2", "av", "soundfile", "soxr"}
MEDIA_HOMES = ("fdan/media/", "fdan/corpora/demo/")

LINES, FILES, FILES_IN_SEARCH = 400, 13, 8


def imported(file: Path) -> set[str]:
    """Full names of the modules that `file` imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the package's name"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def packages(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(file)}


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no Python files under {package}/"
    return found


def where(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_downward(package: str) -> None:
    broken = {
        where(file): sorted(packages(file) & FORBIDDEN[package])
        for file in files(package)
        if packages(file) & FORBIDDEN[package]
    }
    assert not broken, f"imports that run upward: {broken}"


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_rooms_import_downward(package: str) -> None:
    """Between two rooms of one line there is no import either way."""
    level = {room: n for n, rooms in enumerate(ROOMS[package]) for room in rooms}
    ground = ROOMS[package][-1]
    broken = []
    for file in files(package):
        room = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in level, f"{where(file)}: {room} is in no line of ROOMS"
        for name in sorted(imported(file)):
            other = [*name.split("."), ""][1]
            if not name.startswith(f"{package}.") or other == room or other not in level:
                continue
            if level[other] <= level[room] and not (room in ground and other in ground):
                broken.append(f"{where(file)} imports {name}")
    assert not broken, "imports that run upward:\n" + "\n".join(broken)


def test_media_libraries_stay_in_media() -> None:
    broken = {
        where(file): sorted(packages(file) & MEDIA)
        for package in FORBIDDEN
        for file in files(package)
        if packages(file) & MEDIA and not where(file).startswith(MEDIA_HOMES)
    }
    assert not broken, f"media libraries outside fdan/media: {broken}"


def test_no_file_and_no_folder_grows_past_its_size() -> None:
    ours = [file for package in FORBIDDEN for file in files(package)]
    long = {where(f): n for f in ours if (n := len(f.read_text().splitlines())) > LINES}
    assert not long, f"files of more than {LINES} lines: {long}"
    crowded = {k: n for k, n in Counter(where(f.parent) for f in ours).items() if n > FILES}
    assert not crowded, f"folders of more than {FILES} Python files: {crowded}"
    top = [file.name for file in files("search") if file.parent == ROOT / "search"]
    assert len(top) <= FILES_IN_SEARCH, f"search/ has {len(top)} files at its top: {top}"


def test_no_package_imports_anything_heavy_by_itself() -> None:
    heavy = {"torch", "torchvision", "ray", "optuna", "mlflow", "sklearn", "scipy"} | MEDIA
    broken = []
    for package in FORBIDDEN:
        for file in files(package):
            if file.name != "__init__.py":
                continue
            for node in ast.parse(file.read_text()).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                if {name.partition(".")[0] for name in names} & heavy:
                    broken.append(where(file))
    assert not broken, f"packages whose import is slow: {broken}"
