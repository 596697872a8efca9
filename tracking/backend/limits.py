"""Limits of MLflow: names, lengths and batch sizes. Everything is made to fit before it is
recorded, so that the server has no reason to reject it.

The limits are those of mlflow.utils.validation and of its SQL columns, checked by a test
against the installed MLflow.
"""

import functools
import json
import posixpath
import re
import zlib
from typing import Final

PER_CALL: Final = {"metric": 1000, "param": 100, "tag": 100}
ENTITIES_PER_CALL: Final = 1000
# The server takes 1e6 bytes of JSON a call; the envelope and escapes need some of it.
BYTES_PER_CALL: Final = 800_000

NAME: Final = 250
PARAM: Final = 6000
TAG: Final = 8000
DESCRIPTION: Final = 5000  # of a registered model's version

_OTHER: Final = re.compile(r"[^/\w.\- :]")


@functools.lru_cache(4096)  # the same few names come with every epoch
def name(text: str) -> str:
    """The name of a metric, parameter or tag as MLflow accepts it. A name that had to change ends
    in a checksum of the original, so that two different ones stay different.

    >>> name("validation/uar"), name("lr*2"), name("../up")
    ('validation/uar', 'lr_2-59bb3ca0', '__/up-bc47d24d')
    """
    clean = _OTHER.sub("_", text)
    parts = ["_" * len(part) if part in (".", "..") else part for part in clean.split("/")]
    clean = posixpath.normpath("/".join(part for part in parts if part) or "_")
    if clean.startswith(".."):
        clean = "__" + clean[2:]
    if clean == text and len(clean) <= NAME:
        return clean
    return f"{clean[: NAME - 9]}-{zlib.crc32(text.encode('utf-8', 'replace')):08x}"


def value(content: object, longest: int) -> str:
    """The value of a parameter or tag as text: text as it is, everything else as JSON, so that
    numbers come back exactly and `true` and `null` are distinguished from words.

    Args:
        content: The value; NumPy's types are written as Python's, others as their text.
        longest: Maximum number of characters; longer text is cut and says so.
    """
    if isinstance(content, str):
        text = content
    else:
        text = json.dumps(content, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x))
    # PostgreSQL refuses NUL in text, UTF-8 has no lone surrogates.
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    if len(text) <= longest:
        return text
    note = f" ... ({len(text)} characters, cut)"
    return text[: longest - len(note)] + note
