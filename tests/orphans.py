"""Child processes of a process that is killed, as Linux shows them: who they are, and whether they are gone."""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"
ROOT: Final = Path(__file__).parents[1]


def with_tests() -> dict[str, str]:
    """Return an environment in which a process finds these tests, and takes one thread."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are still there."""
    return [child for child, parent in _parents() if parent == pid]


def _parents() -> Iterable[tuple[int, int]]:
    for folder in Path("/proc").glob("[0-9]*"):
        status = _status(int(folder.name))
        if status is not None:
            yield int(folder.name), int(status[1])


def _status(pid: int) -> list[str] | None:
    """Return a process's state, its parent and so on, None if it is gone or a mere entry that nobody has read."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError):
        return None
    return None if status[0] in "ZX" else status


def await_end(pids: Iterable[int], *, seconds: float) -> None:
    """Return once all processes are gone; fail if one is not by then, and end it."""
    ends = time.monotonic() + seconds
    left = list(pids)
    while left and time.monotonic() < ends:
        left = [pid for pid in left if _status(pid) is not None]
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, 9)
    assert not left, f"still there after {seconds} s: {left}"
