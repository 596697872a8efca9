"""Options that the registry's commands share."""

from __future__ import annotations

import argparse


def add_name(command: argparse.ArgumentParser) -> None:
    """--name."""
    command.add_argument(
        "--name", default="fdan", metavar="NAME", help="the registered model (default: fdan)"
    )


def add_uri(command: argparse.ArgumentParser, default: str) -> None:
    """--tracking-uri."""
    command.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"MLflow's server or database (default: {default})",
    )


HERE = "MLFLOW_TRACKING_URI, or ./runs/mlflow.db"
