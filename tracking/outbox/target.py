"""Target of a study's records: the tracking URI and the experiment, noted in the spool so that
`python -m tracking flush` needs no more than the folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fdan.errors import FdanError
from fdan.files import write_atomic
from tracking.uri import mask_password, sqlite_file


@dataclass(frozen=True)
class Target:
    """An MLflow server or database, and an experiment there."""

    uri: str
    experiment: str

    def save(self, spool: Path) -> None:
        """Note it in the spool's folder, without the password. Raises OSError."""
        path = spool / "target.json"
        text = json.dumps({**asdict(self), "uri": mask_password(self.uri)}) + "\n"
        if not (path.exists() and path.read_text() == text):
            write_atomic(path, text)

    @classmethod
    def load(cls, spool: Path) -> Target:
        """Raises FdanError if the folder is no spool."""
        path = spool / "target.json"
        try:
            content = json.loads(path.read_text())
            return cls(str(content["uri"]), str(content["experiment"]))
        except FileNotFoundError:
            raise FdanError(
                f"{spool} holds no tracking records (no {path.name} in it); give a study's folder, "
                "such as runs/demo, or its spool"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FdanError(f"{path} cannot be read ({error}); give --tracking-uri") from None

    def artifacts(self, spool: Path) -> Path:
        """Folder for artifacts if the target is a database: mlartifacts beside an SQLite file,
        else in the runs folder above <study>/spool. A server has its own."""
        file = sqlite_file(self.uri)
        runs = spool.resolve().parent.parent if file is None else file.parent
        return runs / "mlartifacts"
