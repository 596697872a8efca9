"""MLflow's database in an SQLite file: there and whole, or not there.

MLflow builds its tables in some sixty migrations, and none of them is one transaction: where a
process is killed on the way, it leaves a file in which no later one can go on. So the tables are
built in a file beside it, which takes the name once it is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import uuid
from pathlib import Path
from typing import Any

from tracking.backend.client import configure_mlflow

_OF_EXPERIMENTS = ("experiments", "_alembic_tmp_experiments")
"""Tables; a migration that rewrites the first has its rows in the second meanwhile."""


def make(database: Path, artifacts: Path) -> None:
    """Make the file where there is none, or an empty one. One process at a time. artifacts: where
    MLflow's experiment `Default` would keep them. Raises whatever goes wrong."""
    if database.exists() and database.stat().st_size:
        return
    configure_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = database.with_name(f"{database.name}.making")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    # A name of its own, since MLflow keeps its connections by name, those of a failure, too.
    file = folder / f"{uuid.uuid4().hex}.db"
    made: Any = SqlAlchemyStore
    made(f"sqlite:///{file}", artifacts.resolve().as_uri()).engine.dispose()
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.replace(database)
    shutil.rmtree(folder, ignore_errors=True)


def half_made(database: Path) -> bool:
    """Whether MLflow began to build its tables there and never came to the first experiment, which
    every database of its own has: so there is nothing in it."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as opened:
            tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
            return "alembic_version" in tables and not any(
                opened.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
                for name in _OF_EXPERIMENTS
                if name in tables
            )
    except sqlite3.Error:  # no database, or one that is being written
        return False
