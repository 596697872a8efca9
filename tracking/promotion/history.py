"""Why a version is what it is: the tags that it has through its life.

`state` is candidate (registered, not yet chosen), champion, replaced or rolled back; `verdict` says
why in words; `history` is all of it, a line an event, the newest last.
"""

import socket
from datetime import UTC, datetime
from typing import Final

from tracking.registry.registry import ModelVersion, Registry
from tracking.tracker import user_name

CANDIDATE: Final = "candidate"
REPLACED: Final = "replaced"
ROLLED_BACK: Final = "rolled back"

_MAX_LENGTH: Final = 5000


def history_line(text: str) -> str:
    """A line of a history: when, by whom, what."""
    return f"{utc_now()} {user_at_host()}: {' '.join(text.split())}"


def add_event(registry: Registry, version: ModelVersion, text: str, **tags: str) -> None:
    """Write an event into a version's history.

    Args:
        registry: Registry that holds the version.
        version: Version that the history is of.
        text: Text of the event.
        tags: Tags written with it.
    """
    current = registry.version(version.number) or version
    history = f"{current.tags.get('history', '')}\n{history_line(text)}".strip()[-_MAX_LENGTH:]
    registry.set_version_tags(version.number, {**tags, "history": history})


def user_at_host() -> str:
    return f"{user_name()}@{socket.gethostname()}"


def utc_now() -> str:
    """ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
