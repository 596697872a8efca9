"""The files beside cluster/config.yaml, with what somebody would fill in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
MARK = "# FILL IN"
BLANK = "FILL-IN"

# What somebody fills in: what stands in a marked line for what is put in its place, line by line.
FILLED = {
    "aws.yaml": [
        ("FILL-IN", "eu-central-1"),
        ("ami-FILL-IN", "ami-0123456789abcdef0"),
        ("fs-FILL-IN.efs.FILL-IN.", "fs-0123456789abcdef0.efs.eu-central-1."),
    ],
    "gcp.yaml": [
        ("FILL-IN", "europe-west4"),
        ("FILL-IN", "europe-west4-a"),
        ("FILL-IN", "a-project"),
        ("FILL-IN:/FILL-IN", "10.0.0.2:/fdan"),
    ],
    "kuberay.yaml": [
        ("FILL-IN", "nfs"),
        ("FILL-IN", "SAVEE"),
        ("FILL-IN", "registry.example/fdan-search:1"),
    ],
    "slurm.sbatch": [
        ("FILL-IN", "gpus"),
        ("FILL-IN", "/scratch"),
        ("FILL-IN", "/scratch/SAVEE"),
    ],
}


def text(name: str) -> str:
    return (CLUSTER / name).read_text()


def filled(name: str, values: list[tuple[str, str]] | None = None) -> str:
    """The file with its marked lines filled in, and nothing else."""
    rest = list(FILLED[name] if values is None else values)
    lines = text(name).splitlines()
    for number, line in enumerate(lines):
        if MARK in line:
            value, mark, comment = line.partition(MARK)
            old, new = rest.pop(0)
            assert old in value, line
            lines[number] = value.replace(old, new, 1) + mark + comment
    assert not rest
    return "\n".join(lines) + "\n"
