"""Files written whole or not at all, flushed, never lost; digests of what is in them.

Every file is written beside its place, flushed, and renamed into it, so that a reader sees the old file or
the new one, whatever happens in between. Folders are flushed too: what was written outlives a power cut.
"""

import errno
import glob
import hashlib
import itertools
import os
from pathlib import Path
from typing import Final

from fsrobust.types import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and clear away what killed processes left of it.

    A link is replaced and not followed: in a folder of a stranger it may lead to any file of ours.

    Raises:
        InputError: a device, a pipe or a socket is there.
    """
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.is_dir():  # a rename onto it would name the partial file, which nobody knows
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # a rename would put a plain file in its place
        raise InputError(
            f'Expected a file or nothing at "{path}", but got a device or a pipe; choose another place'
        )
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # a full disk names no file
        raise
    for folder in (path.parent, *(folder.parent for folder in new)):
        sync_folder(folder)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not _is_running(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk: without that a power cut may undo a rename that was done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as file systems say that have no such thing
            raise
    finally:
        os.close(descriptor)


def _is_running(pid: str) -> bool:
    """Return whether a process of this number is there, also where that cannot be told."""
    return not pid.isdecimal() or not Path("/proc/self").exists() or Path("/proc", pid).exists()


_ITS_OWN: Final = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EINVAL,  # an archive that points before its own beginning
)


def is_damage(error: Exception) -> bool:
    """Return whether an error in reading says something of the file: that it is not there, or not what it should be.

    Missing rights, a failing disk and a full memory say nothing of what is in it.
    """
    if isinstance(error, OSError):
        return error.errno is None or error.errno in _ITS_OWN  # decompressors give none
    return not isinstance(error, MemoryError)


def move_aside(what: Path, aside: Path) -> Path:
    """Move a file or a folder to the first name of ``aside/NAME-1``, ``aside/NAME-2`` … that is free; return it."""
    aside.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count(1)
    place = next(place for k in numbers if not (place := aside / f"{what.name}-{k}").exists())
    what.replace(place)
    for changed in (aside, aside.parent, what.parent):
        sync_folder(changed)
    return place


def digest(*contents: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    total = hashlib.sha256()
    for content in contents:
        total.update(content)
    return total.hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
