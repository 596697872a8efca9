"""Commands as another account runs them, or where a system call is refused."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

GROUP: Final = 5000

_READ: Final = "+dac_read_search"
"""The interpreter may lie where its owner alone can read, as under /root. Writing is not freed."""

_FLOCK: Final = {"x86_64": (0xC000003E, 73), "aarch64": (0xC00000B7, 32)}
"""Architecture in a filter's data, and the number of flock(2) there."""


def account(user: int, umask: int = 0o022) -> list[str]:
    """What goes before a command that an account without a name runs, which is in GROUP."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("another account takes root and setpriv")
    capabilities = [f"--{kind}-caps=-all,{_READ}" for kind in ("inh", "ambient")]
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={GROUP}", *capabilities]
    words.append(f"--bounding-set=-all,{_READ}")
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this container cannot change accounts")
    return ["sh", "-c", f'umask {umask:o}; exec "$@"', "sh", *words]


def group_folder(folder: Path) -> Path:
    """Make a folder that GROUP may write, whose files are the group's; and beside it `temporary`,
    which everybody may write."""
    folder.mkdir()
    folder.with_name("temporary").mkdir()
    folder.with_name("temporary").chmod(0o1777)
    if os.geteuid() != 0:
        pytest.skip("a group of one's own takes root")
    os.chown(folder, -1, GROUP)
    folder.chmod(0o2775)
    for above in folder.parents[:-2]:  # pytest's are for their owner alone
        above.chmod(above.stat().st_mode | 0o011)
    return folder


def refusing_flock(number: int) -> Callable[[], None]:
    """A preexec_fn: flock(2) fails with this number, as on a file system without locks."""
    if platform.machine() not in _FLOCK:
        pytest.skip("the number of flock is not known here")
    architecture, call = _FLOCK[platform.machine()]
    # Load the architecture, compare; load the call's number, compare; refuse or allow.
    program = [
        (0x20, 0, 0, 4),
        (0x15, 0, 3, architecture),
        (0x20, 0, 0, 0),
        (0x15, 0, 1, call),
        (0x06, 0, 0, 0x00050000 | number),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)

    def refuse() -> None:
        assert code  # kept alive
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp filter")

    return refuse
