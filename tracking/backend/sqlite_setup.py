"""Creates MLflow's database in an SQLite file, whole or not at all.

MLflow builds its tables in some sixty migrations, and none of them is one transaction: a process
that is killed on the way leaves a file in which no later one can continue. So the tables are built
in a file beside it, which gets the name once it is whole.
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

_EXPERIMENTS = ("experiments", "_alembic_tmp_experiments")
"""Tables; a migration that rewrites the first keeps its rows in the second meanwhile."""


def make(database: Path, artifacts: Path) -> None:
    """Make the database if there is none, or an empty file. One process at a time. Raises whatever
    goes wrong.

    Args:
        database: The SQLite file.
        artifacts: Folder where MLflow's experiment `Default` would keep them.
    """
    if database.exists() and database.stat().st_size:
        return
    configure_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = database.with_name(f"{database.name}.making")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir(parents=True)
    # A name of its own, since MLflow keeps its connections by name, those of a failure, too.
    file = folder / f"{uuid.uuid4().hex}.db"
    make_tables: Any = SqlAlchemyStore
    make_tables(f"sqlite:///{file}", artifacts.resolve().as_uri()).engine.dispose()
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.replace(database)
    shutil.rmtree(folder, ignore_errors=True)


def half_made(database: Path) -> bool:
    """Whether MLflow began to build its tables and never reached the first experiment, which every
    database has: so the file holds nothing."""
    try:
        uri = f"{database.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            return "alembic_version" in tables and not any(
                connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()
                for name in _EXPERIMENTS
                if name in tables
            )
    except sqlite3.Error:  # no database, or one that is being written
        return False
