"""One process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from fsrobust.types import InputError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for this process; the kernel lets go when the process ends, however it ends.

    Raises:
        InputError: another process holds it, or it cannot be written.
    """
    with _opened_lock(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f'"{directory}" is in use by another process; wait for it or choose another --out'
            ) from error
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


_HELD: Final[set[TextIO]] = set()
"""Locks of this process. A forked child has copies of them, which would hold on to them after this process's death."""


def _let_go() -> None:
    """Close a forked child's copies, which unlocks nothing."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def _opened_lock(directory: Path) -> TextIO:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("a")
    except OSError as error:
        raise InputError(
            f'Expected to write in "{directory}", but got: {error.strerror}; choose another --out'
        ) from error
