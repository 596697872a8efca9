"""Folders and files whose names are no UTF-8, out of an old archive, or look like parts of URIs."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.commands.corpora import fer2013, meld

LATIN = os.fsdecode(b"caf\xe9")


def test_a_runs_folder_that_is_no_utf8_is_refused_before_anything_starts(
    run: Run, tmp_path: Path
) -> None:
    for arguments in (
        ("search/run.py", "--runs", LATIN),
        ("search/run.py", "--runs", f"{LATIN}/runs", "--dry-run"),
        ("-m", "fdan", "prepare", "--runs", LATIN),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "caf\\udce9" in done.stderr and "its name is not UTF-8" in done.stderr
    assert not list(tmp_path.iterdir())


def test_files_whose_names_are_no_utf8_are_used_or_listed(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    """Sounds, MPEG-4 films and pictures in such a folder, and one of each that is damaged."""
    films = meld(corpus, tmp_path / "meld")
    odd = fer2013(corpus, tmp_path / "faces").rename(tmp_path / LATIN)
    for part in sorted(films.glob("*_splits*"))[:1]:
        for film, folder in zip(sorted(part.iterdir()), sorted(odd.iterdir()), strict=False):
            shutil.copy(film, folder / os.fsdecode(b"film-\xfc.mp4"))
    for sound in sorted((corpus / "AudioData").rglob("*.wav")):
        letter = sound.stem.rstrip("0123456789")
        names = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral"}
        folder = odd / {**names, "sa": "sad", "su": "surprise"}[letter]
        shutil.copy(sound, folder / f"{sound.parent.name}-{os.fsdecode(bytes([0xE9]))}.wav")
    (odd / "angry" / os.fsdecode(b"\xe9.wav")).write_bytes(b"no sound")
    (odd / "angry" / os.fsdecode(b"\xe9.mp4")).write_bytes(b"no film")
    small = ("--spectrogram-size", "32", "--face-size", "32", "--workers", "1")
    done = run("-m", "fdan", "prepare", "--task", f"folders:{odd}", "--protocol", "paper", *small)
    assert done.returncode == 0, done.stderr
    assert "signal" not in done.stdout
    assert "angry/\\udce9.wav" in done.stdout and "angry/\\udce9.mp4" in done.stdout


@pytest.mark.parametrize("name", ["feature%2Fx", "a%20b", "what?", "My Study ü #1 100%"])
def test_what_a_command_prints_can_be_pasted(run: Run, name: str, tmp_path: Path) -> None:
    """In the line that a missing study is refused with, the runs folder is one word."""
    done = run("-m", "search", "status", "s", "--runs", name)
    assert done.returncode == 2
    command = done.stderr[done.stderr.index("python -m") : done.stderr.index(" shows those")]
    assert shlex.split(command)[-2:] == ["--runs", str(tmp_path / name)]
    assert not list(tmp_path.iterdir())
