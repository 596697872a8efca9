"""Folders that several accounts share: files get the group's rights, and where rights lack, a line
says whose the file is and what to do."""

import contextlib
import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def follow_group(folder: Path) -> None:
    """Where a folder, or the nearest above it that exists, is a group's (it hands its group down,
    setgid, and lets it write), let this process and its children make files that the group may
    write, too, whatever the umask was."""
    for nearest in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            mode = nearest.stat().st_mode
            if mode & stat.S_ISGID and mode & stat.S_IWGRP:
                os.umask(os.umask(0o077) & ~stat.S_IRWXG)
            return


def write_with_rights(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file by a library that keeps its files to their owner.

    Args:
        path: New file; it gets the rights of any other that is made there.
        write: Function that writes it.

    Raises:
        OSError: The file cannot be written.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write(path)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def denied(error: BaseException) -> bool:
    """Whether an exception says that this account may not do that to a file."""
    return isinstance(error, OSError) and error.errno in _DENIED


def explain(error: OSError, path: Path) -> str:
    """What the system refused, and, where rights lack, whose the file is and what to do.

    Args:
        error: Exception of the system.
        path: What was read or written, if the exception does not say that.
    """
    file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    text = f"{file}: {error.strerror or error}"
    return f"{text} ({_remedy(file, error)})" if denied(error) else text


def why_unwritable(file: Path) -> str | None:
    """Why this account cannot write a file that exists, or make others beside it, as SQLite does;
    None where it can."""
    for path in (file, file.parent):
        if not os.access(path, os.W_OK):
            reading = os.statvfs(path).f_flag & os.ST_RDONLY
            number = errno.EROFS if reading else errno.EACCES
            return explain(OSError(number, os.strerror(number), str(path)), path)
    return None


def _remedy(file: Path, error: OSError) -> str:
    if error.errno == errno.EROFS:
        return "choose a folder that can be written"
    # A file that is not there could not be made, or reached, in the nearest folder that is.
    existing = file
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        found = existing.lstat()
    except OSError:
        return "ask the owner of its folder for rights"
    owner, group = _user(found.st_uid), _group(found.st_gid)
    whose = f"{existing} is {owner}'s, group {group}, {stat.filemode(found.st_mode)}; this is"
    whose += f" {_user(os.geteuid())}"
    if found.st_uid == os.geteuid():
        return f"{whose}: chmod u+rwX {shlex.quote(str(existing))}, or choose another folder"
    folder = existing if stat.S_ISDIR(found.st_mode) else existing.parent
    command = f"chmod -R g+rwX {shlex.quote(str(folder))}"
    if found.st_gid not in (os.getegid(), *os.getgroups()):
        command = f"another folder, or membership of that group and {command}"
        return f"{whose}: it takes {command}"
    return f"{whose}: its owner can let the group write: {command}"


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
